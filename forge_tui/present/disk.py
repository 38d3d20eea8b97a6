"""The disk as a bar: what is kept, what would go, what lies in the trash, other files, and what is free.

The parts are told apart by their signs, without colour and in ASCII too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from forge_tui import units
from forge_tui.text import compose, pad

_KEPT, _GOING, _TRASHED, _OTHER, _FREE = "█", "▓", "▒", "━", "░"
_INKS = {_KEPT: "bar", _GOING: "warn", _TRASHED: "accent", _OTHER: "label", _FREE: "track"}


@dataclass(frozen=True)
class Disk:
    """The file system that holds the home."""

    total: int
    free: int


@dataclass(frozen=True)
class Room:
    """What sessions take of it, by what becomes of them."""

    kept: int = 0
    going: int = 0
    trashed: int = 0


def lines(disk: Disk | None, room: Room, width: int, height: int) -> list[Text]:
    """A bar, and under it what its parts are: two on a line, or all on one where the pane is low."""
    if disk is None or disk.total <= 0:
        return [compose((" looking…", "label"), width=width)]
    shares = _shares(disk, room)
    bar = _bar(shares, disk.total, max(10, width - 2))
    parts = [
        compose((sign, _INKS[sign]), (f" {title} ", "label"), (units.size(amount), "value"))
        for sign, title, amount in shares
    ]
    whole = parts[-1].copy().append_text(compose((f" of {units.size(disk.total)}", "label")))
    if height >= 4:
        half = width // 2
        pairs = [(pad(left, half), right) for left, right in zip(parts[0:4:2], parts[1:4:2], strict=True)]
        return [bar, *(compose(" ", *row, width=width) for row in [*pairs, (whole,)])]
    shown = ([*parts[:-1], whole], parts, [*parts[:3], parts[-1]], [*parts[1:3], parts[-1]])
    fitting = (line for line in map(_joined, shown) if line.cell_len <= width)
    return [bar, next(fitting, compose(" ", whole, width=width))][: max(1, height)]


def _joined(parts: Sequence[Text]) -> Text:
    return compose(" ", Text("  ").join(parts))


def _shares(disk: Disk, room: Room) -> list[tuple[str, str, int]]:
    ours = room.kept + room.going + room.trashed
    return [
        (_KEPT, "kept", room.kept),
        (_GOING, "to go", room.going),
        (_TRASHED, "trash", room.trashed),
        (_OTHER, "other", max(0, disk.total - disk.free - ours)),
        (_FREE, "free", disk.free),
    ]


def _bar(shares: Sequence[tuple[str, str, int]], total: int, width: int) -> Text:
    """Cells by share; what there is at all is seen, and the largest part gives way for it."""
    cells = {sign: max(1, round(width * amount / total)) if amount else 0 for sign, _, amount in shares}
    largest = max(cells, key=lambda sign: cells[sign])
    cells[largest] += width - sum(cells.values())
    return compose(" ", *((sign * cells[sign], _INKS[sign]) for sign, _, _ in shares), width=width + 1)
