"""Charts: whatever a run logs is drawn inside the plot, and nothing that matters is lost on the way."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forge.registry.rows import BucketRow, PointRow
from forge_tui.charts import axis
from forge_tui.charts.columns import bridge, reduce_columns, smooth
from forge_tui.charts.raster import Chart, Layer, Mark, Raster, Trace, draw
from forge_tui.charts.series import EMPTY, Series, SeriesView

FULL = 0x28FF
WIDTH, HEIGHT = 40, 12
finite = st.floats(-1e9, 1e9)
values = st.lists(finite | st.just(math.nan) | st.just(math.inf), max_size=300)


def view(points: list[float], capacity: int = 4096, first: int = 1) -> SeriesView:
    """A series of one value a step."""
    series = Series(capacity)
    series.extend([PointRow(step=first + i, value=value) for i, value in enumerate(points)])
    return series.view()


def line(points: list[float], *, end: float | None = None, **options: Any) -> Chart:
    """A chart of one line."""
    kind = options.pop("kind", "line")
    right = float(len(points) if end is None else end)
    return Chart((Trace(view(points), kind, Layer.LINE),), start=0.0, end=max(right, 1.0), **options)


def dots(raster: Raster, layer: Layer) -> np.ndarray[Any, Any]:
    """The dot matrix of one layer: (4 rows, 2 columns) a cell."""
    height, width = raster.glyphs.shape
    order = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
    out = np.zeros((height * 4, width * 2), bool)
    for row, column in np.argwhere(raster.layers == layer):
        code = int(raster.glyphs[row, column]) - 0x2800
        for bit, (y, x) in enumerate(order):
            out[row * 4 + y, column * 2 + x] = bool(code >> bit & 1)
    return out


def inside(raster: Raster) -> np.ndarray[Any, Any]:
    """The plot without axes and labels."""
    return raster.glyphs[: HEIGHT - 2, axis.LABEL_WIDTH + 1 :]


# --- the series ---------------------------------------------------------------------------------------


@given(values, st.sampled_from([2, 4, 16, 64]))
def test_a_bounded_series_keeps_its_extremes(points: list[float], capacity: int) -> None:
    made = view(points, capacity)
    assert len(made) <= capacity
    kept = [p for p in points if math.isfinite(p)]
    assert int(made.broken.sum()) == len(points) - len(kept)
    if kept:
        assert np.nanmin(made.low) == min(kept)
        assert np.nanmax(made.high) == max(kept)
    if points:
        assert made.last_step == len(points)
        assert made.latest == points[-1] or math.isnan(points[-1])
    assert list(made.step) == sorted(made.step)


@given(st.lists(finite, min_size=1, max_size=40), st.lists(finite, min_size=1, max_size=40))
def test_a_view_never_changes(before: list[float], after: list[float]) -> None:
    series = Series(8)
    series.extend_arrays(np.arange(len(before)), np.array(before))
    taken = series.view()
    copies = [taken.step.copy(), taken.low.copy(), taken.high.copy(), taken.broken.copy()]
    series.extend_arrays(np.arange(len(before), len(before) + len(after)), np.array(after))
    for was, now in zip(copies, [taken.step, taken.low, taken.high, taken.broken], strict=True):
        assert np.array_equal(was, now, equal_nan=True)
    with pytest.raises(ValueError, match="read-only"):
        taken.low[0] = 1.0


def test_buckets_of_sql_are_taken_as_they_are() -> None:
    series = Series()
    series.extend_buckets(
        [
            BucketRow(first_step=1, last_step=10, count=10, low=1.0, high=9.0, last=2.0, broken=0),
            BucketRow(first_step=11, last_step=20, count=10, low=None, high=None, last=None, broken=10),
        ]
    )
    made = series.view()
    assert made.last_step == 20
    assert math.isnan(made.latest)
    assert (made.low[0], made.high[0], made.broken[1]) == (1.0, 9.0, 10)


def test_a_rewound_series_is_empty() -> None:
    series = Series()
    series.extend_arrays(np.arange(5), np.ones(5))
    series.clear()
    assert (len(series), series.last_step) == (0, -1)


@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_a_capacity_that_cannot_be_halved_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Series(capacity)


# --- columns ------------------------------------------------------------------------------------------


@given(values, st.integers(1, 60))
def test_a_column_spans_all_that_falls_into_it(points: list[float], n: int) -> None:
    columns = reduce_columns(view(points), 1, max(1, len(points)), n)
    kept = [p for p in points if math.isfinite(p)]
    if kept:
        assert np.nanmin(columns.low) == min(kept)
        assert np.nanmax(columns.high) == max(kept)
    assert bool(columns.broken.any()) is (len(kept) < len(points))
    known = np.isfinite(columns.low)
    # The mean of a column may differ from its extremes by rounding alone.
    slack = 1e-9 * np.maximum(1.0, np.abs(columns.high[known]))
    assert (columns.low[known] - slack <= columns.mean[known]).all()
    assert (columns.mean[known] <= columns.high[known] + slack).all()


@given(values.filter(bool), st.integers(0, 20))
def test_smoothing_stays_between_the_extremes(points: list[float], radius: int) -> None:
    columns = reduce_columns(view(points), 1, len(points), 30)
    smoothed = smooth(columns, radius)
    assert np.array_equal(np.isfinite(smoothed), np.isfinite(columns.mean))
    if np.isfinite(smoothed).any():
        slack = 1e-6 * max(1.0, np.nanmax(np.abs(columns.mean)))
        assert np.nanmin(smoothed) >= np.nanmin(columns.mean) - slack
        assert np.nanmax(smoothed) <= np.nanmax(columns.mean) + slack


def test_gaps_are_bridged_but_not_over_a_nan() -> None:
    nan = math.nan
    broken = np.array([False, False, False, True, False])
    given_values = np.array([1.0, nan, 3.0, nan, 5.0])
    assert np.array_equal(bridge(given_values, broken), np.array([1.0, 2.0, 3.0, nan, 5.0]), equal_nan=True)


# --- axes ---------------------------------------------------------------------------------------------


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
)
@example(0.0, 0.0, False)
@example(-5.0, -1.0, True)
@example(1e-300, 1e300, True)
def test_a_scale_is_never_empty_and_rows_are_inside(low: float, high: float, log: bool) -> None:
    scale = axis.fit(min(low, high), max(low, high), log=log)
    assert scale.low < scale.high
    rows = scale.rows(np.array([low, high, 0.0, math.nan, math.inf, -math.inf, 1e308, 5e-324]), 20)
    assert rows.min() >= 0
    assert rows.max() <= 19


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12), st.integers(0, 12))
def test_ticks_are_few_and_inside(low: float, span: float, most: int) -> None:
    high = low + span
    found = axis.ticks(low, high, most)
    assert len(found) <= most
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in found)
    assert found == sorted(found)


@given(st.floats(-12, 12), st.floats(0.01, 10), st.integers(1, 10))
def test_ticks_of_a_logarithm_are_few_and_inside(low: float, span: float, most: int) -> None:
    found = axis.log_ticks(low, low + span, most)
    assert len(found) <= most
    assert all(10**low * 0.999 <= tick <= 10 ** (low + span) * 1.001 for tick in found)


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(123456.0)
@example(-0.00012345)
def test_a_label_fits(value: float) -> None:
    assert len(axis.label(value)) <= axis.LABEL_WIDTH


@given(st.floats(0, 1e9), st.none() | st.floats(1, 1e9))
def test_a_growing_axis_holds_the_last_step_and_moves_rarely(last: float, total: float | None) -> None:
    end = axis.grown(last, total)
    assert end >= last
    assert end <= max(16.0, 1.5 * last, total or 0)
    assert axis.grown(end, total) == end


# --- the picture --------------------------------------------------------------------------------------


@settings(max_examples=60)
@example([2.2e-309, 1.0], True, False, "line")
@example([1.7e308, 1.0], True, False, "line")
@given(values, st.booleans(), st.booleans(), st.sampled_from(["raw", "smooth", "line", "area", "points"]))
def test_anything_can_be_drawn(points: list[float], log: bool, ascii_only: bool, kind: str) -> None:
    raster = draw(line(points, log=log, kind=kind), WIDTH, HEIGHT, ascii_only=ascii_only)
    assert raster.glyphs.shape == (HEIGHT, WIDTH)
    text = "".join(raster.text())
    assert text.isprintable()
    assert not ascii_only or text.isascii()


@settings(max_examples=60)
@given(st.lists(finite, min_size=2, max_size=400))
@example([1.0] * 200 + [50.0] + [1.0] * 200)
@example([1.0, 1.0])
def test_no_spike_is_lost(points: list[float]) -> None:
    raster = draw(line(points), WIDTH, HEIGHT)
    plot = dots(raster, Layer.LINE)[: (HEIGHT - 2) * 4, (axis.LABEL_WIDTH + 1) * 2 :]
    columns = reduce_columns(view(points), 0, len(points), plot.shape[1])
    scale = axis.fit(min(points), max(points))
    for low, high, dot in zip(columns.low, columns.high, plot.T, strict=True):
        if math.isfinite(low):
            top, bottom = scale.rows(np.array([high, low]), plot.shape[0])
            assert dot[top], "the largest value of a column is drawn"
            assert dot[bottom], "the smallest value of a column is drawn"


def test_a_line_has_no_holes() -> None:
    raster = draw(line([0.0, 100.0, 0.0, 100.0, 50.0]), WIDTH, HEIGHT)
    plot = dots(raster, Layer.LINE)[: (HEIGHT - 2) * 4, (axis.LABEL_WIDTH + 1) * 2 :]
    drawn = [np.flatnonzero(column) for column in plot.T if column.any()]
    for one, other in pairwise(drawn):
        assert one.min() - 1 <= other.max()
        assert one.max() + 1 >= other.min()


def test_nan_leaves_a_gap_and_a_sign() -> None:
    points = [2.0] * 20 + [math.nan] * 20 + [2.0] * 20
    raster = draw(line(points), WIDTH, HEIGHT)
    assert "×" in raster.text()[0]
    plot = dots(raster, Layer.LINE)[: (HEIGHT - 2) * 4, (axis.LABEL_WIDTH + 1) * 2 :]
    middle = plot[:, plot.shape[1] * 5 // 12 : plot.shape[1] * 7 // 12]
    assert not middle.any()
    assert plot[:, :10].any()
    assert plot[:, -10:].any()


def test_a_series_of_nan_alone_is_told() -> None:
    raster = draw(line([math.nan] * 5), WIDTH, HEIGHT)
    assert "×" in raster.text()[0]
    assert not dots(raster, Layer.LINE).any()


@pytest.mark.parametrize("points", [[0.0, -1.0, -5.0], [0.0] * 3])
def test_a_logarithm_shows_nothing_below_zero(points: list[float]) -> None:
    assert not dots(draw(line(points, log=True), WIDTH, HEIGHT), Layer.LINE).any()


def test_a_logarithm_reaches_down_to_its_floor() -> None:
    raster = draw(line([0.0, 1.0, 10.0, 100.0], log=True), WIDTH, HEIGHT)
    labels = [row[: axis.LABEL_WIDTH].strip() for row in raster.text()]
    assert "100" in labels
    assert "1" in labels
    assert dots(raster, Layer.LINE).any()


def test_one_point_is_seen() -> None:
    raster = draw(line([3.0], kind="points", end=10), WIDTH, HEIGHT)
    assert sum(row.count("•") for row in raster.text()) == 1
    assert dots(draw(line([3.0], end=10), WIDTH, HEIGHT), Layer.LINE).sum() == 1


def test_a_constant_is_a_straight_line() -> None:
    plot = dots(draw(line([2.5] * 100), WIDTH, HEIGHT), Layer.LINE)
    assert (plot.sum(axis=1) > 0).sum() == 1


def test_an_empty_chart_has_bare_axes() -> None:
    raster = draw(Chart((Trace(EMPTY, "line", Layer.LINE),), end=16.0), WIDTH, HEIGHT)
    assert set("".join(raster.text())) <= set(" │└─")


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (7, 2), (11, 3), (10, 40)])
def test_too_small_a_chart_is_left_empty(size: tuple[int, int]) -> None:
    width, height = size
    raster = draw(line([1.0, 2.0]), width, height)
    assert raster.glyphs.shape == (height, width)


def test_an_area_reaches_the_floor() -> None:
    raster = draw(line([0.0, 10.0, 5.0], kind="area", floor=0.0), WIDTH, HEIGHT)
    assert (raster.layers == Layer.FILL).any()
    assert int(inside(raster)[-1].max()) == FULL
    filled = dots(raster, Layer.FILL) | dots(raster, Layer.LINE)
    for column in filled[: (HEIGHT - 2) * 4].T:
        lit = np.flatnonzero(column)
        # Only the cells of the edge are thinned out, so that the line stands out.
        assert not lit.size or lit.max() >= (HEIGHT - 2) * 4 - 8


def test_marks_stand_on_the_axis_and_alarms_on_top() -> None:
    marks = (Mark(5, "▴"), Mark(5, "!", alarm=True), Mark(99, "✗", alarm=True))
    raster = draw(line([1.0] * 10, marks=marks), WIDTH, HEIGHT)
    row = raster.text()[HEIGHT - 2]
    assert "!" in row
    assert "▴" not in row
    assert "✗" not in row
    assert (raster.layers[HEIGHT - 2] == Layer.ALARM).sum() == 1


def test_two_units_have_an_axis_each() -> None:
    traces = (
        Trace(view([7.0, 3.0]), "line", Layer.LINE),
        Trace(view([2.6, 1.6]), "points", Layer.POINT, right=True),
    )
    raster = draw(Chart(traces, end=2.0), 60, HEIGHT)
    left = [row[:6].strip() for row in raster.text()[: HEIGHT - 2]]
    right = [row[-6:].strip() for row in raster.text()[: HEIGHT - 2]]
    assert "6" in left
    assert "2" in right
    assert (raster.layers == Layer.RIGHT).any()


def test_labels_below_never_touch() -> None:
    for width in range(20, 120):
        row = draw(line([1.0] * 5, end=1_000_000), width, HEIGHT).text()[-1]
        assert row.strip()
        assert "kk" not in row.replace(" ", "x")
