"""The theme, and the named inks with which lines and charts are written.

Meaning never rests on an ink alone: whatever a colour says, a word or a sign beside it says too.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

from rich.segment import Segment
from rich.style import Style
from rich.text import Span, Text
from textual.strip import Strip
from textual.theme import Theme
from textual.widget import Widget

from forge_tui.charts.raster import Layer

DARK = Theme(
    name="forge-dark",
    primary="#5fb3d9",
    secondary="#8a7fd6",
    accent="#f2a65a",
    warning="#e8b339",
    error="#ef6b73",
    success="#6cc68c",
    foreground="#d7dce4",
    background="#10141b",
    surface="#171c25",
    panel="#1f2632",
    dark=True,
    variables={"border": "#5fb3d9", "border-blurred": "#333c4a", "scrollbar": "#333c4a"},
)

_INKS = {
    "value": "#d7dce4",
    "label": "#8b96a8",
    "faint": "#69748a",
    "strong": "bold #ffffff",
    "chosen": "bold underline #ffffff",
    "accent": "#f2a65a",
    "good": "#6cc68c",
    "warn": "#e8b339",
    "bad": "bold #ef6b73",
    "key": "bold #5fb3d9",
    "train": "#5fb3d9",
    "val": "#f2a65a",
    "mean": "#8a7fd6",
    "second": "#a79bf0",
    "third": "#6cc68c",
    "fourth": "#e58fb1",
    "bar": "#5fb3d9",
    "track": "#333c4a",
    "cursor": "#10141b on #5fb3d9",
    "off": "#5b6678",
}
INKS: Mapping[str, Style] = MappingProxyType({name: Style.parse(text) for name, text in _INKS.items()})

LAYER_INKS: Mapping[int, Style] = MappingProxyType(
    {
        Layer.EMPTY: INKS["value"],
        Layer.AXIS: INKS["track"],
        Layer.LABEL: INKS["label"],
        Layer.RAW: Style.parse("#37607a"),
        Layer.LINE: Style.parse("bold #7fd0f5"),
        Layer.SECOND: Style.parse("#8a7fd6"),
        Layer.THIRD: Style.parse("#5fae7c"),
        Layer.FOURTH: Style.parse("#d67fa3"),
        Layer.POINT: Style.parse("bold #f2a65a"),
        Layer.BROKEN: INKS["bad"],
        Layer.MARK: INKS["label"],
        Layer.ALARM: INKS["bad"],
        Layer.RIGHT: Style.parse("#b98551"),
        Layer.FILL: Style.parse("#2a4a5e"),
    }
)


def paper(widget: Widget) -> Style:
    """The style that lies under everything a widget writes: its own background."""
    return INKS["value"] + Style(bgcolor=widget.background_colors[1].rich_color)


def strip(line: Text, width: int, base: Style) -> Strip:
    """A line as segments of exactly `width` cells, its named inks turned into styles."""
    plain = line.plain
    spans = line.spans
    if line.style:
        spans = [Span(0, len(plain), line.style), *spans]
    segments = [
        Segment(plain[start:end], style)
        for start, end, style in _runs(len(plain), spans, base)
        if end > start
    ]
    return Strip(segments).adjust_cell_length(width, base)


def _runs(length: int, spans: list[Span], base: Style) -> list[tuple[int, int, Style]]:
    """Stretches of equal style; later spans lie on top of earlier ones."""
    edges = sorted({0, length, *(e for s in spans for e in (s.start, s.end) if 0 <= e <= length)})
    runs = []
    for start, end in pairwise(edges):
        style = base
        for span in spans:
            if span.start <= start and span.end >= end:
                style = style + (
                    INKS.get(span.style) or Style.null() if isinstance(span.style, str) else span.style
                )
        runs.append((start, end, style))
    return runs
