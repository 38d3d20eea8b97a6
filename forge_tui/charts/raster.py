"""A chart as a matrix of characters: NumPy in, code points and layers out, no terminal in sight.

Two rasters of the same size can be compared cell by cell, which is how only changed cells are sent over the
link. Every finite value lies inside the plot, and every column shows its smallest and its largest value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forge_tui.charts import axis
from forge_tui.charts.axis import LABEL_WIDTH, Scale
from forge_tui.charts.columns import Bools, Columns, bridge, connect, reduce_columns, smooth
from forge_tui.charts.series import SeriesView

Glyphs = NDArray[np.uint32]
Layers = NDArray[np.uint8]


class Layer(IntEnum):
    """What a cell shows; the widget gives each layer its style."""

    EMPTY = 0
    AXIS = 1
    LABEL = 2
    RAW = 3
    LINE = 4
    SECOND = 5
    POINT = 6
    BROKEN = 7
    MARK = 8
    ALARM = 9
    RIGHT = 10
    FILL = 11
    THIRD = 12
    FOURTH = 13


@dataclass(frozen=True, eq=False)
class Trace:
    """One series on the chart."""

    view: SeriesView
    kind: Literal["raw", "smooth", "line", "area", "points"]
    layer: Layer
    right: bool = False
    """Measured on the right axis, when its unit is another."""


@dataclass(frozen=True)
class Mark:
    """An event at a step, drawn on the axis line."""

    x: float
    glyph: str
    alarm: bool = False


@dataclass(frozen=True, eq=False)
class Chart:
    """Everything that a chart shows, independent of its size on the screen."""

    traces: tuple[Trace, ...] = ()
    marks: tuple[Mark, ...] = ()
    start: float = 0.0
    end: float = 1.0
    log: bool = False
    floor: float | None = None
    """Lowest value that the axis must include."""
    ceiling: float | None = None
    x_label: Callable[[float], str] = axis.label
    y_label: Callable[[float], str] = axis.label
    x_ticks: tuple[float, ...] | None = None
    """Places of the labels below; none chooses round numbers."""


@dataclass(frozen=True, eq=False)
class Raster:
    """The finished picture: one code point and one layer a cell."""

    glyphs: Glyphs  # (height, width)
    layers: Layers  # (height, width)

    def text(self) -> list[str]:
        """The rows as strings."""
        return [row.tobytes().decode("utf-32-le") for row in self.glyphs]


@dataclass(frozen=True)
class _Dots:
    """How many dots a cell has, and what its patterns look like."""

    rows: int
    columns: int
    weights: NDArray[np.uint32]  # (rows, columns)
    glyphs: dict[int, NDArray[np.uint32]]  # layer -> pattern -> code point


def _braille() -> _Dots:
    patterns = np.arange(256, dtype=np.uint32) + 0x2800
    weights = np.array([[1, 8], [2, 16], [4, 32], [64, 128]], np.uint32)
    drawn = (Layer.RAW, Layer.LINE, Layer.SECOND, Layer.THIRD, Layer.FOURTH, Layer.FILL)
    return _Dots(4, 2, weights, dict.fromkeys(drawn, patterns))


def _ascii() -> _Dots:
    def table(patterns: str) -> NDArray[np.uint32]:
        return np.array([ord(char) for char in patterns], np.uint32)

    glyphs = {
        Layer.RAW: table(" '.:"),
        Layer.LINE: table(" ***"),
        Layer.SECOND: table(" +++"),
        Layer.THIRD: table(" ###"),
        Layer.FOURTH: table(" %%%"),
        Layer.FILL: table(" '.:"),
    }
    return _Dots(2, 1, np.array([[1], [2]], np.uint32), {int(k): v for k, v in glyphs.items()})


BRAILLE, ASCII = _braille(), _ascii()
_POINT = {True: "o", False: "•"}
_BROKEN = {True: "x", False: "×"}
_FRAME = {True: ("|", "+", "-"), False: ("│", "└", "─")}
_TICKS = {True: "++", False: "┤├"}
_RIGHT_CORNER = {True: "+", False: "┘"}
SMOOTHING = 0.02
"""Half width of the smoothing window, as a share of the plot."""


def draw(chart: Chart, width: int, height: int, *, ascii_only: bool = False) -> Raster:
    """Draw a chart into `width` by `height` cells, axes included; one without points has bare axes."""
    canvas = Raster(np.full((height, width), ord(" "), np.uint32), np.zeros((height, width), np.uint8))
    right = LABEL_WIDTH + 1 if width >= 40 and any(t.right and len(t.view) for t in chart.traces) else 0
    left = LABEL_WIDTH + 1
    plot_width, plot_height = width - left - right, height - 2
    if plot_width < 4 or plot_height < 1:
        return canvas
    inner = Raster(
        canvas.glyphs[:plot_height, left : width - right], canvas.layers[:plot_height, left : width - right]
    )
    scales = _plot(chart, inner, ASCII if ascii_only else BRAILLE, ascii_only)
    _axes(canvas, left, plot_width, plot_height, right=bool(right), ascii_only=ascii_only)
    if all(not len(trace.view) for trace in chart.traces):
        return canvas
    _marks(chart, canvas, left, plot_width, plot_height)
    _x_labels(chart, canvas, left, plot_width, plot_height)
    ticks = _TICKS[ascii_only]
    _y_labels(chart, canvas.glyphs[:plot_height, :left], canvas.layers, scales[0], ticks[0])
    if right and scales[1] is not None:
        area = canvas.glyphs[:plot_height, width - right :]
        _y_labels(chart, area, canvas.layers[:, width - right :], scales[1], ticks[1], on_left=False)
    return canvas


def _plot(chart: Chart, inner: Raster, dots: _Dots, ascii_only: bool) -> tuple[Scale, Scale | None]:
    height, width = inner.glyphs.shape
    n = width * dots.columns
    views = {id(trace.view): trace.view for trace in chart.traces}
    by_view = {key: reduce_columns(view, chart.start, chart.end, n) for key, view in views.items()}
    reduced = [(trace, by_view[id(trace.view)]) for trace in chart.traces]
    left = _scale(chart, [columns for trace, columns in reduced if not trace.right], bounded=True)
    others = [columns for trace, columns in reduced if trace.right]
    right = _scale(chart, others, bounded=False) if others else None
    for trace, columns in reduced:
        scale = right if trace.right and right is not None else left
        if trace.kind == "points":
            _draw_points(inner, columns, scale, dots, trace.layer, _POINT[ascii_only])
        elif trace.kind == "area":
            _draw_area(inner, columns, scale, dots, trace.layer)
        else:
            mask = _mask(trace.kind, columns, scale, height * dots.rows)
            _draw_mask(inner, mask, dots, trace.layer)
        _draw_broken(inner, columns, dots, _BROKEN[ascii_only])
    return left, right


def _scale(chart: Chart, columns: Sequence[Columns], *, bounded: bool) -> Scale:
    floor, ceiling = (chart.floor, chart.ceiling) if bounded else (None, None)
    lows = [float(np.fmin.reduce(c.low, initial=np.inf)) for c in columns]
    highs = [float(np.fmax.reduce(c.high, initial=-np.inf)) for c in columns]
    if chart.log:
        # A logarithm starts at the smallest positive value, whatever lies below it.
        lows = [float(np.min(c.low, where=c.low > 0, initial=np.inf)) for c in columns]
    low = min([*lows, *([] if floor is None else [floor])], default=np.inf)
    high = max([*highs, *([] if ceiling is None else [ceiling])], default=-np.inf)
    scale = axis.fit(low, high, log=chart.log)
    # Nothing lies below a floor, so no room is left there.
    return Scale(low, scale.high) if floor is not None and low == floor else scale


def _mask(kind: str, columns: Columns, scale: Scale, height: int) -> Bools:
    if kind == "smooth":
        radius = max(1, round(columns.mean.size * SMOOTHING))
        low = high = bridge(smooth(columns, radius), columns.broken)
    else:
        low, high = bridge(columns.low, columns.broken), bridge(columns.high, columns.broken)
    valid = np.isfinite(scale.transform(high))
    top, bottom = scale.rows(high, height), scale.rows(low, height)
    # On a log axis a span may begin below what can be shown: it then reaches down to the floor.
    bottom = np.where(np.isfinite(scale.transform(low)), bottom, height - 1)
    top, bottom = connect(top, bottom, valid)
    rows = np.arange(height)[:, None]
    return (rows >= top) & (rows <= bottom) & valid


def _draw_mask(inner: Raster, mask: Bools, dots: _Dots, layer: Layer) -> None:
    height, width = inner.glyphs.shape
    cells = mask.reshape(height, dots.rows, width, dots.columns)
    codes = np.einsum("hrwc,rc->hw", cells, dots.weights)
    hit = codes > 0
    inner.glyphs[hit] = dots.glyphs[layer][codes[hit]]
    inner.layers[hit] = layer


def _draw_points(
    inner: Raster, columns: Columns, scale: Scale, dots: _Dots, layer: Layer, glyph: str
) -> None:
    height = inner.glyphs.shape[0]
    for values in (columns.low, columns.high):
        places = np.flatnonzero(np.isfinite(scale.transform(values)))
        rows = scale.rows(values[places], height * dots.rows) // dots.rows
        inner.glyphs[rows, places // dots.columns] = ord(glyph)
        inner.layers[rows, places // dots.columns] = layer


def _draw_broken(inner: Raster, columns: Columns, dots: _Dots, glyph: str) -> None:
    places = np.flatnonzero(columns.broken) // dots.columns
    inner.glyphs[0, places] = ord(glyph)
    inner.layers[0, places] = Layer.BROKEN


def _draw_area(inner: Raster, columns: Columns, scale: Scale, dots: _Dots, layer: Layer) -> None:
    """A line, and everything below it filled."""
    edge = _mask("line", columns, scale, inner.glyphs.shape[0] * dots.rows)
    _draw_mask(inner, np.logical_or.accumulate(edge, axis=0), dots, Layer.FILL)
    _draw_mask(inner, edge, dots, layer)


def _axes(canvas: Raster, left: int, width: int, height: int, *, right: bool, ascii_only: bool) -> None:
    side, corner, line = _FRAME[ascii_only]
    canvas.glyphs[:height, left - 1] = ord(side)
    canvas.glyphs[height, left - 1] = ord(corner)
    canvas.glyphs[height, left : left + width] = ord(line)
    canvas.layers[:height, left - 1] = Layer.AXIS
    canvas.layers[height, left - 1 : left + width] = Layer.AXIS
    if right:
        canvas.glyphs[:height, left + width] = ord(side)
        canvas.glyphs[height, left + width] = ord(_RIGHT_CORNER[ascii_only])
        canvas.layers[: height + 1, left + width] = Layer.AXIS


def _marks(chart: Chart, canvas: Raster, left: int, width: int, height: int) -> None:
    span = chart.end - chart.start
    for mark in sorted(chart.marks, key=lambda mark: mark.alarm):
        if span > 0 and chart.start <= mark.x <= chart.end:
            column = left + min(width - 1, int((mark.x - chart.start) / span * width))
            canvas.glyphs[height, column] = ord(mark.glyph)
            canvas.layers[height, column] = Layer.ALARM if mark.alarm else Layer.MARK


def _x_labels(chart: Chart, canvas: Raster, left: int, width: int, height: int) -> None:
    span = chart.end - chart.start
    if not span > 0:
        return
    places = chart.x_ticks or tuple(axis.ticks(chart.start, chart.end, max(3, width // 12)))
    taken = left - 1
    for place in places:
        text = chart.x_label(place)
        column = left + min(width - 1, int((place - chart.start) / span * width))
        column = min(max(left, column - len(text) // 2), left + width - len(text))
        if column > taken:
            _write(canvas.glyphs, canvas.layers, height + 1, column, text)
            taken = column + len(text)


def _y_labels(
    chart: Chart, glyphs: Glyphs, layers: Layers, scale: Scale, tick: str, *, on_left: bool = True
) -> None:
    height, width = glyphs.shape
    most = min(8, max(2, height * 9 // 20))
    places = (axis.log_ticks if scale.log else axis.ticks)(scale.low, scale.high, most)
    if not places:
        return
    line = width - 1 if on_left else 0
    taken: set[int] = set()
    for row, place in zip(scale.rows(np.array(places), height).tolist(), places, strict=True):
        if row not in taken:
            taken.add(row)
            text = chart.y_label(place)[:LABEL_WIDTH]
            ink = Layer.LABEL if on_left else Layer.RIGHT
            _write(glyphs, layers, row, line - len(text) if on_left else 1, text, ink)
            glyphs[row, line], layers[row, line] = ord(tick), Layer.AXIS


def _write(
    glyphs: Glyphs, layers: Layers, row: int, column: int, text: str, ink: Layer = Layer.LABEL
) -> None:
    start = max(0, column)
    shown = text[start - column : glyphs.shape[1] - column]
    glyphs[row, start : start + len(shown)] = [ord(char) for char in shown]
    layers[row, start : start + len(shown)] = ink
