"""The list of sessions: a head line, the columns, and one line for each session."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from forge.registry.rows import SessionRow
from forge_tui import units
from forge_tui.present import words
from forge_tui.state import ORDERS, Page
from forge_tui.text import Part, compose, cut, pad, safe

_STATE, _PRESET, _PHASE, _CHANGED = 16, 12, 14, 9


def head(page: Page[SessionRow], width: int) -> Text:
    """How many sessions, in which order, under which filter."""
    query = page.query
    parts: list[Part] = [(" sessions", "key"), (" · ", "faint")]
    if page.problem is not None:
        return compose(*parts, (page.problem, "bad"), width=width)
    parts.append((f"{page.total:,}", "strong"))
    if query is not None:
        parts += [(" · ", "faint"), (ORDERS[query.order][0], "label")]
        if query.search:
            parts += [(" · ", "faint"), (f'containing "{query.search}"', "accent")]
    return compose(*parts, width=width)


def columns(width: int) -> Text:
    """The names of the columns."""
    titles = ("   state", "name", "preset", "phase", "changed")
    return _line(width, *(compose((title, "faint")) for title in titles))


def row_line(row: SessionRow, width: int, chosen: bool, now: float, tags: Sequence[str] = ()) -> Text:
    """One session."""
    sign = words.SIGNS[row.state]
    line = _line(
        width,
        compose((f" {sign} {row.state}", words.INKS[row.state])),
        compose(
            (row.name, "value"),
            ("  pinned" if row.pinned else "", "accent"),
            ("".join(f"  #{tag}" for tag in tags), "key"),
            (f"  {row.note}" if row.note else "", "faint"),
        ),
        compose((row.preset, "label")),
        compose((words.phase_title(row.phase) if row.phase else "", "label")),
        compose((units.ago(now - row.updated_at), "label")),
    )
    return safe(line.plain, style="cursor") if chosen else line


def empty(search: str, width: int) -> Text:
    """What a list without rows says."""
    if search:
        return compose(
            (f'   nothing contains "{search}"; ', "label"),
            ("esc", "key"),
            (" clears the filter", "label"),
            width=width,
        )
    return compose(
        ("   there is no session yet; ", "label"), ("n", "key"), (" makes one", "label"), width=width
    )


def _line(width: int, *cells: Text) -> Text:
    wide = width >= 76
    sizes = [_STATE, 0, _PRESET if wide else 0, _PHASE if width >= 66 else 0, _CHANGED]
    sizes[1] = max(10, width - sum(sizes) - 1)
    line = compose()
    for size, cell in zip(sizes, cells, strict=True):
        if size:
            cut(cell, size - 1)
            line.append_text(pad(cell, size))
    return pad(line, width)
