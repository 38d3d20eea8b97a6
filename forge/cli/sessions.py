"""`forge sessions`: the sessions of a home, newest first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from forge import units
from forge.cli.console import put_json, put_table, say
from forge.cli.home import engine_of
from forge.cli.labels import tags_of
from forge.home import resolve_home
from forge.registry import SessionRow, State, queries

Tags = tuple[str, ...]
_HEADS = ("NAME", "STATE", "PRESET", "PHASE", "CREATED", "CHANGED", "LABELS", "NOTE")


def sessions(home: Path | None, *, search: str, states: Sequence[str], limit: int, json: bool) -> int:
    """Print one page of sessions; returns the exit code."""
    wanted = [_state(name) for name in states]
    if not resolve_home(home).registry.exists():
        return _print([], 0, {}, json=json)
    with engine_of(home) as engine:
        engine.reconcile()
        rows = engine.registry.fetch(queries.sessions(limit=limit, search=search, states=wanted))
        total = engine.registry.fetch(queries.count_sessions(search, wanted))[0]
        tags = tags_of(engine, rows)
    return _print(rows, total, tags, json=json)


def _print(rows: Sequence[SessionRow], total: int, tags: Mapping[str, Tags], *, json: bool) -> int:
    if json:
        facts = [{**row.model_dump(exclude={"lease"}), "tags": tags.get(row.id, ())} for row in rows]
        put_json({"sessions": facts, "total": total})
        return 0
    if not rows:
        say('no session fits; "forge run tiny" starts one.')
        return 0
    now = time.time()
    put_table([_cells(row, tags.get(row.id, ()), now) for row in rows], _HEADS)
    if total > len(rows):
        say(f"{len(rows)} of {total} sessions; --limit {total} shows them all")
    return 0


def _cells(row: SessionRow, tags: Tags, now: float) -> list[str]:
    return [
        row.name,
        row.state,
        row.preset,
        row.phase or "",
        units.date_time(row.created_at),
        units.since(now - row.updated_at),
        " ".join([*(["pinned"] if row.pinned else []), *(f"#{tag}" for tag in tags)]),
        row.note,
    ]


def _state(name: str) -> State:
    try:
        return State(name)
    except ValueError as error:
        raise typer.BadParameter(
            f"{name!r} is no state; states are {', '.join(State)}", param_hint="--state"
        ) from error
