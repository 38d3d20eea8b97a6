"""The list of events: when, what, and how serious, one line each."""

from __future__ import annotations

from rich.text import Text

from forge.registry.rows import EventRow
from forge_tui import units
from forge_tui.state import Snapshot
from forge_tui.text import clean, compose, safe, wrap

_LEVELS = {"info": ("", "value"), "warning": ("! ", "warn"), "error": ("✗ ", "bad")}
_TIME_WIDTH = len("14:02:10 ")
_MOST_LINES = 4


def events(snapshot: Snapshot, width: int) -> list[Text]:
    """All events at hand, oldest first."""
    if not snapshot.events:
        return [safe("nothing has happened yet", width, "label")]
    return [line for event in snapshot.events for line in event_lines(event, width)]


def event_lines(event: EventRow, width: int) -> list[Text]:
    """One event: time, sign, and its message; what went wrong may take more than one line."""
    sign, ink = _LEVELS[event.level]
    step = ""
    if event.step and "step" not in event.message:
        step = f"step {units.steps(event.step)} "
    head = compose((units.time_of_day(event.at) + " ", "faint"), (sign, ink), (step, "label"))
    room = max(10, width - head.cell_len)
    if event.level == "info":
        return [head.append_text(safe(event.message, room, ink))]
    indent = " " * _TIME_WIDTH
    first, *rest = wrap(clean(event.message), room)
    more = [
        safe(indent + line, width, ink) for part in rest for line in wrap(part, max(10, width - _TIME_WIDTH))
    ]
    return [head.append_text(safe(first, room, ink)), *more[: _MOST_LINES - 1]]
