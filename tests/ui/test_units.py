"""Numbers as a person reads them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_tui import units

numbers = st.floats(-1e300, 1e300) | st.sampled_from([math.nan, math.inf, -math.inf])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.8734, "1.873"), (0.84, "0.8400"), (3e-3, "3.0e-3"), (-1e-12, "-1.0e-12"), (0, "0"),
        (12.5, "12.50"), (1234.5, "1,234"), (2.5e9, "2.5e9"), (math.nan, "NaN"),
        (math.inf, "inf"), (-math.inf, "-inf"),
    ],
)  # fmt: skip
def test_figures(value: float, shown: str) -> None:
    assert units.figure(value) == shown


@given(numbers)
def test_a_figure_is_short_and_true(value: float) -> None:
    shown = units.figure(value)
    assert len(shown) <= 10
    back = float(shown.replace(",", ""))
    assert back == pytest.approx(value, rel=0.06, abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (812, "812"), (999.6, "1.00 k"), (12_400, "12.4 k"), (1.21e6, "1.21 M"), (5e15, "5000 T")],
)
def test_counts(value: float, shown: str) -> None:
    assert units.count(value) == shown
    assert units.size(value) == shown + ("B" if shown[-1].isalpha() else " B")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 m 00 s"), (250, "4 m 10 s"), (7500, "2 h 05 m"),
     (273_600, "3 d 04 h"), (-5, "0 s"), (math.inf, "unknown"), (math.nan, "unknown")],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert units.duration(seconds) == shown


def test_no_number_of_bytes() -> None:
    assert [units.size(value) for value in (math.nan, math.inf)] == ["NaN", "inf"]


def test_clocks() -> None:
    assert units.stopwatch(842) == "00:14:02"
    assert units.stopwatch(2 * 86_400 + 11_642) == "2 d 03:14:02"
    assert units.time_of_day(0) == "00:00:00"
    assert [units.ago(s) for s in (-1, 1, 41, 250, 7500, 273_600)] == [
        "now",
        "now",
        "41 s",
        "4 m",
        "2 h",
        "3 d",
    ]


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_percent_is_never_100_too_early(part: int, whole: int) -> None:
    shown = int(units.percent(part, whole).removesuffix("%"))
    assert 0 <= shown <= 100
    assert (shown == 100) is (part >= whole)


def test_percent_of_nothing() -> None:
    assert units.percent(3, 0) == "0%"
