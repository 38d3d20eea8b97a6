"""The list of events: when, what, and how serious.

What went well takes one line and may be cut; what went wrong is wrapped, and says so where it is cut.
"""

from __future__ import annotations

from rich.text import Text

from forge.registry.rows import EventRow
from forge_tui import units
from forge_tui.state import Snapshot
from forge_tui.text import ELLIPSIS, clean, compose, safe, wrap

_LEVELS = {"info": ("", "value"), "warning": ("! ", "warn"), "error": ("✗ ", "bad")}
_MOST_LINES = {"info": 1, "warning": 3, "error": 6}
_ROOMY = 60
"""From this width on the time has seconds."""


def events(snapshot: Snapshot, width: int) -> list[Text]:
    """All events at hand, oldest first."""
    if not snapshot.events:
        return [safe("nothing has happened yet", width, "label")]
    return [line for event in snapshot.events for line in event_lines(event, width)]


def event_lines(event: EventRow, width: int) -> list[Text]:
    """One event: time, sign, and its message."""
    sign, ink = _LEVELS[event.level]
    time = units.time_of_day(event.at)
    time = (time if width >= _ROOMY else time[:5]) + " "
    step = f"step {units.steps(event.step)} " if event.step and "step" not in event.message else ""
    head = compose((time, "faint"), (sign, ink), (step, "label"))
    most = _MOST_LINES[event.level]
    if most == 1:
        return [compose(head, (event.message, ink), width=width)]
    first, *rest = _wrap(clean(event.message), width - head.cell_len, width - len(time))
    lines = [compose(head, (first, ink), width=width)]
    lines += [compose((" " * len(time) + line, ink), width=width) for line in rest[: most - 1]]
    if len(rest) > most - 1:
        lines[-1].truncate(width - 1)
        lines[-1].append(ELLIPSIS, ink)
    return lines


def _wrap(text: str, first: int, others: int) -> list[str]:
    """Lines between words, where the first has less room than the others."""
    head, *rest = wrap(text, max(10, first))
    return [head, *(wrap(" ".join(rest), max(10, others)) if rest else ())]
