"""A chart on the screen: draws a `Chart` into its cells and repaints only those that changed.

The rasteriser runs when the chart or the size has changed, not for every line that is rendered.
"""

from __future__ import annotations

import numpy as np
from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from forge_tui.charts.raster import Chart, Raster, draw
from forge_tui.widgets.ink import LAYER_INKS, paper
from forge_tui.widgets.textpane import runs

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
        before = self._raster
        if before is None or before.glyphs.shape != self._shape:
            # Not on the screen at this size: it is drawn when it comes there.
            self._raster = None
            return
        self._raster = after = self._draw(chart)
        different = (before.glyphs != after.glyphs) | (before.layers != after.layers)
        rows = np.flatnonzero(different.any(axis=1)).tolist()
        if rows:
            offset = self.content_region.offset - self.region.offset
            self.refresh(
                *(
                    Region(first, row, last - first, 1).translate(offset)
                    for row in rows
                    for first, last in runs(np.flatnonzero(different[row]).tolist())
                )
            )

    @property
    def _shape(self) -> tuple[int, int]:
        return self.size.height, self.size.width

    def _draw(self, chart: Chart) -> Raster:
        return draw(chart, *self.size, ascii_only=self._ascii)

    def render_line(self, y: int) -> Strip:
        """One row of the picture."""
        if self._chart is not None and (self._raster is None or self._raster.glyphs.shape != self._shape):
            self._raster = self._draw(self._chart)
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
