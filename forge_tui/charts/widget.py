"""A chart on the screen: draws a `Chart` into its cells and repaints only those that changed.

The rasteriser runs when the chart or the size changed, never when a line is rendered.
"""

from __future__ import annotations

import numpy as np
from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from forge_tui.charts.raster import Chart, Raster, draw
from forge_tui.widgets.ink import LAYER_INKS, paper

_LONGEST = 12
"""Cells in one segment: a segment is sent as a whole, so long ones would resend what did not change."""


class ChartView(Widget):
    """Shows one chart."""

    DEFAULT_CSS = "ChartView { height: 1fr; width: 1fr; }"

    def __init__(self, *, id: str | None = None, ascii_only: bool = False) -> None:
        super().__init__(id=id)
        self._ascii = ascii_only
        self._chart: Chart | None = None
        self._raster: Raster | None = None

    @property
    def chart(self) -> Chart | None:
        """What is shown."""
        return self._chart

    def show(self, chart: Chart) -> None:
        """Draw a chart; cells that stay the same are not touched."""
        self._chart = chart
        width, height = self.size
        if not width or not height:
            return
        before, after = self._raster, draw(chart, width, height, ascii_only=self._ascii)
        self._raster = after
        if before is None or before.glyphs.shape != after.glyphs.shape:
            self.refresh()
            return
        different = (before.glyphs != after.glyphs) | (before.layers != after.layers)
        rows = np.flatnonzero(different.any(axis=1)).tolist()
        if rows:
            self.refresh(*(self._span(row, np.flatnonzero(different[row])) for row in rows))

    def on_resize(self) -> None:
        """Draw again at the new size."""
        self._raster = None
        if self._chart is not None:
            self.show(self._chart)

    def render_line(self, y: int) -> Strip:
        """One row of the picture."""
        raster = self._raster
        base = paper(self)
        if raster is None or y >= raster.glyphs.shape[0]:
            return Strip.blank(self.size.width, base)
        text = raster.glyphs[y].tobytes().decode("utf-32-le")
        layers = raster.layers[y]
        edges = np.flatnonzero(np.diff(layers)) + 1
        segments: list[Segment] = []
        for start, end in zip([0, *edges.tolist()], [*edges.tolist(), len(text)], strict=True):
            style = base + LAYER_INKS[int(layers[start])]
            segments += [
                Segment(text[piece : min(end, piece + _LONGEST)], style)
                for piece in range(start, end, _LONGEST)
            ]
        return Strip(segments, len(text))

    def _span(self, row: int, columns: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Region:
        offset = self.content_region.offset - self.region.offset
        first, last = int(columns[0]), int(columns[-1])
        return Region(first, row, last - first + 1, 1).translate(offset)
