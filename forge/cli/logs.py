"""`forge logs`: the log of a session, its end first shown and then, if wanted, followed.

A line of the log is one JSON object, or whatever a library printed; neither can disturb the terminal.
"""

from __future__ import annotations

import json as jsonlib
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forge import units
from forge.cli.console import put_json_line, say
from forge.cli.home import engine_of
from forge.engine.logfile import LogReader
from forge.errors import NotFoundError
from forge.registry import LIVE
from forge.text import clean

if TYPE_CHECKING:
    from forge.engine import Engine

LEVELS = ("info", "warning", "error")
_LOOK_SECONDS = 0.5
_LAST_SECOND = 1e11
"""Times beyond are no times; the year 5138."""


def logs(text: str | None, home: Path | None, *, lines: int, level: str, follow: bool, json: bool) -> int:
    """Print the last lines of a session's log; returns the exit code."""
    if level not in LEVELS:
        raise typer.BadParameter(
            f"{level!r} is no level; levels are {', '.join(LEVELS)}", param_hint="--level"
        )
    with engine_of(home) as engine:
        session = engine.find(text)
        path = engine.home.session(session.id).log
        if not path.exists():
            say(f"{session.name} has not written anything yet")
            if not follow:
                return 0
        for entry in _entries(engine, session.id, path, lines, LEVELS.index(level), follow=follow):
            _print(entry, json=json)
    return 0


def _entries(
    engine: Engine, session_id: str, path: Path, lines: int, least: int, *, follow: bool
) -> Iterator[dict[str, Any]]:
    """The last `lines` entries of level `least` or above, then those that come while the session is live."""
    while follow and not path.exists() and _live(engine, session_id):
        time.sleep(_LOOK_SECONDS)
    if not path.exists():
        return
    if not path.is_file():
        raise NotFoundError(f"{path} is no file any more; Forge did not put there what is there.")
    with closing(LogReader(path)) as log:
        yield from deque(_read(log, least), maxlen=lines)
        while follow:
            # Asked before the last read, so that what the owner wrote while it ended is read too.
            live = _live(engine, session_id)
            yield from _read(log, least)
            if not live:
                return
            time.sleep(_LOOK_SECONDS)


def _live(engine: Engine, session_id: str) -> bool:
    engine.reconcile()
    return engine.session(session_id).state in LIVE


def _read(log: LogReader, least: int) -> Iterator[dict[str, Any]]:
    for line in log.lines():
        entry = _entry(line.decode("utf-8", "backslashreplace").rstrip("\r\n"))
        if _rank(entry) >= least:
            yield entry


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = jsonlib.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if isinstance(entry, dict) and isinstance(entry.get("message"), str):
        return entry
    return {"level": "info", "kind": "output", "message": line}


def _rank(entry: dict[str, Any]) -> int:
    level = entry.get("level")
    return LEVELS.index(level) if level in LEVELS else 0


def _print(entry: dict[str, Any], *, json: bool) -> None:
    if json:
        put_json_line(entry)
        return
    at = entry.get("at")
    when = units.timestamp(at) if isinstance(at, (int, float)) and 0 <= at < _LAST_SECOND else ""
    place = " ".join(str(entry[key]) for key in ("phase", "step") if entry.get(key) is not None)
    head = [part for part in (when, f"{entry.get('level', 'info')!s:<7}", place) if part]
    first, *rest = entry["message"].splitlines() or [""]
    lines = ["  ".join([*head, first]), *(f"    {line}" for line in rest)]
    print("\n".join(clean(line) for line in lines), flush=True)
