"""`forge sessions`: the sessions of a home, newest first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import typer

from forge import units
from forge.cli.console import put_json, put_table, say
from forge.cli.home import engine_of
from forge.home import resolve_home
from forge.registry import SessionRow, State, queries

_HEADS = ("NAME", "STATE", "PRESET", "PHASE", "CREATED", "CHANGED", "NOTE")


def sessions(home: Path | None, *, search: str, states: Sequence[str], limit: int, json: bool) -> int:
    """Print one page of sessions; returns the exit code."""
    wanted = [_state(name) for name in states]
    if not resolve_home(home).registry.exists():
        return _print([], 0, json=json)
    with engine_of(home) as engine:
        engine.reconcile()
        rows = engine.registry.fetch(queries.sessions(limit=limit, search=search, states=wanted))
        total = engine.registry.fetch(queries.count_sessions(search, wanted))[0]
    return _print(rows, total, json=json)


def _print(rows: Sequence[SessionRow], total: int, *, json: bool) -> int:
    if json:
        put_json({"sessions": [row.model_dump(exclude={"lease"}) for row in rows], "total": total})
        return 0
    if not rows:
        say('no session fits; "forge run tiny" starts one.')
        return 0
    now = time.time()
    put_table([_cells(row, now) for row in rows], _HEADS)
    if total > len(rows):
        say(f"{len(rows)} of {total} sessions; --limit {total} shows them all")
    return 0


def _cells(row: SessionRow, now: float) -> list[str]:
    return [
        row.name,
        row.state,
        row.preset,
        row.phase or "",
        units.date_time(row.created_at),
        units.since(now - row.updated_at),
        row.note,
    ]


def _state(name: str) -> State:
    try:
        return State(name)
    except ValueError as error:
        raise typer.BadParameter(
            f"{name!r} is no state; states are {', '.join(State)}", param_hint="--state"
        ) from error
