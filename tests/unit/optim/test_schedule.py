"""Schedules: bounds, continuity and both ends, over random settings."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.config import ForgeTrainingConfig, TrainingConfig
from forge.optim.schedule import lambda_at, lr_ratio, weight_decay_ratio


@st.composite
def trainings(draw: st.DrawFn) -> TrainingConfig:
    steps = draw(st.integers(2, 300))
    return TrainingConfig(
        steps=steps,
        warmup_steps=draw(st.integers(0, steps - 1)),
        schedule=draw(st.sampled_from(["constant", "cosine", "linear", "wsd"])),
        decay_fraction=draw(st.floats(0.01, 1)),
        final_lr_ratio=draw(st.floats(0, 1)),
        weight_decay_until=draw(st.floats(0, 1)),
    )


@given(trainings())
def test_learning_rate_stays_between_its_ends(training: TrainingConfig) -> None:
    ratios = [lr_ratio(step, training) for step in range(training.steps)]
    warm = training.warmup_steps
    assert all(0 < ratio <= 1 for ratio in ratios[:warm])
    assert all(training.final_lr_ratio - 1e-9 <= ratio <= 1 for ratio in ratios[warm:])
    assert ratios[:warm] == sorted(ratios[:warm])
    assert ratios[warm:] == sorted(ratios[warm:], reverse=True)


@given(trainings())
def test_learning_rate_ends_where_it_says(training: TrainingConfig) -> None:
    want = 1.0 if training.schedule == "constant" else training.final_lr_ratio
    assert lr_ratio(training.steps - 1, training) == pytest.approx(want)
    if training.steps - training.warmup_steps > 1 and training.decay_fraction < 1:
        assert lr_ratio(training.warmup_steps, training) == pytest.approx(1.0)


@given(trainings())
def test_learning_rate_has_no_jumps(training: TrainingConfig) -> None:
    ratios = [lr_ratio(step, training) for step in range(training.steps)]
    decay = max(1, round(training.decay_fraction * training.steps))
    if training.schedule != "wsd":
        decay = training.steps
    falling = max(1, min(decay, training.steps - training.warmup_steps) - 1)
    # A cosine's steepest slope is pi / 2 times a line's.
    steepest = max(1.6 / falling, 1 / (training.warmup_steps + 1))
    jumps = [abs(b - a) for a, b in pairwise(ratios)]
    assert max(jumps) <= steepest + 1e-9


def test_wsd_holds_the_peak_and_then_falls_in_a_line() -> None:
    training = TrainingConfig(
        steps=100, warmup_steps=9, schedule="wsd", decay_fraction=0.2, final_lr_ratio=0.1
    )
    assert [lr_ratio(step, training) for step in (0, 4, 8)] == pytest.approx([0.1, 0.5, 0.9])
    assert {lr_ratio(step, training) for step in range(9, 81)} == {1.0}
    assert lr_ratio(81, training) < 1.0
    assert lr_ratio(80 + 19 / 2, training) == pytest.approx(0.55)  # type: ignore[arg-type]
    assert lr_ratio(99, training) == pytest.approx(0.1)


@given(trainings())
def test_weight_decay_falls_to_zero_once(training: TrainingConfig) -> None:
    ratios = [weight_decay_ratio(step, training) for step in range(training.steps)]
    assert set(ratios) <= {0.0, 1.0}
    assert ratios == sorted(ratios, reverse=True)
    assert sum(ratios) == pytest.approx(training.weight_decay_until * training.steps, abs=1)


@given(steps=st.integers(2, 200), ramp=st.integers(0, 199), start=st.floats(0, 1))
def test_the_share_of_quantisation_rises_to_one(steps: int, ramp: int, start: float) -> None:
    ramp = min(ramp, steps - 1)
    forging = ForgeTrainingConfig(steps=steps, lambda_ramp_steps=ramp, lambda_start=start)
    shares = [lambda_at(step, forging) for step in range(steps)]
    assert shares == sorted(shares)
    assert shares[0] == (start if ramp else 1.0)
    assert all(share == 1.0 for share in shares[ramp:])
    assert max((b - a for a, b in pairwise(shares)), default=0) <= 1 / max(ramp, 1) + 1e-9


def test_the_control_without_estimator_is_fully_quantised_throughout() -> None:
    control = ForgeTrainingConfig(ste_enabled=False, lambda_start=0.0, lambda_ramp_steps=50)
    assert {lambda_at(step, control) for step in range(60)} == {1.0}
    plain = ForgeTrainingConfig(quantization_aware=False, ste_enabled=False)
    assert lambda_at(99, plain) == 0.0
