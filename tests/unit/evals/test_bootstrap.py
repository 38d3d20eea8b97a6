"""Intervals hold the truth as often as they say, and a pair is compared item by item."""

from __future__ import annotations

import numpy as np
import pytest

from forge.evals import mean_interval, paired_interval


def test_an_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).random((200, 150)) < 0.3
    intervals = [mean_interval(row.astype(float)) for row in draws]
    held = sum(i.low <= 0.3 <= i.high for i in intervals)
    assert 180 <= held <= 198
    width = np.mean([i.high - i.low for i in intervals])
    assert width == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 150), rel=0.1)


def test_it_repeats_and_does_not_depend_on_the_size_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    items = np.random.default_rng(1).random(300)
    once = mean_interval(items)
    assert once == mean_interval(items)
    assert once != mean_interval(items, seed=1)
    monkeypatch.setattr("forge.evals.bootstrap._BLOCK", 1000)
    assert mean_interval(items) == once


def test_paired_items_show_a_difference_that_their_means_hide() -> None:
    rng = np.random.default_rng(2)
    hard = rng.random(100)
    a, b = hard + 0.02 + 0.01 * rng.random(100), hard
    difference = paired_interval(a, b)
    assert difference.low > 0.02
    assert mean_interval(a).low < mean_interval(b).high
    assert paired_interval(b, a).mean == pytest.approx(-difference.mean)


def test_without_items_or_with_others_there_is_none() -> None:
    with pytest.raises(ValueError, match="no item"):
        mean_interval(np.array([]))
    with pytest.raises(ValueError, match="not the same ones"):
        paired_interval(np.zeros(3), np.zeros(4))
