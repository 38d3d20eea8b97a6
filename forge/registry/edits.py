"""Every change of the registry, as functions of a connection inside `Registry.write`.

State changes go through the transition table in the same transaction that reads the state before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from forge.errors import ForgeError, NotFoundError
from forge.registry import queries
from forge.registry.lifecycle import LIVE, State, check_transition
from forge.registry.query import fetch
from forge.registry.rows import CommandRow, ModelRow, SessionRow
from forge.registry.sqlite import Connection

MAX_TEXT = 20_000


def storable(text: str) -> str:
    """Text as SQLite can keep it: lone surrogates and NUL become visible escapes, and length is bounded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")[:MAX_TEXT]


def create_session(
    c: Connection, *, id: str, name: str, preset: str, phases: Sequence[tuple[str, int]], now: float
) -> str:
    """Add a session with its planned phases (name, total steps); returns the name, made unique."""
    wanted = storable(name).strip()[:80] or "session"
    final, number = wanted, 1
    while c.execute("SELECT 1 FROM session WHERE name = ?", (final,)).fetchone():
        number += 1
        final = f"{wanted}-{number}"
    c.execute(
        "INSERT INTO session (id, name, state, preset, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
        (id, final, State.CREATED, storable(preset), now, now),
    )
    for position, (phase, total) in enumerate(phases):
        c.execute(
            "INSERT INTO phase_run (session_id, phase, position, state, total_steps) VALUES (?, ?, ?, ?, ?)",
            (id, phase, position, State.CREATED, total),
        )
    return final


def get_session(c: Connection, session_id: str) -> SessionRow:
    """The session, inside this transaction.

    Raises:
        NotFoundError: there is none.
    """
    rows = fetch(c, queries.session(session_id))
    if not rows:
        raise NotFoundError(f'no session with id {session_id}; "forge sessions" lists them.')
    return rows[0]


def set_session_state(
    c: Connection, session_id: str, state: State, *, now: float, error: str | None = None, phase: str | None = None
) -> SessionRow:
    """Move a session to another state.

    Raises:
        IllegalTransitionError: it cannot get there from where it is.
    """
    before = get_session(c, session_id)
    check_transition(before.state, state, what=f"session {before.name}")
    ended = None if state in LIVE else now
    c.execute(
        "UPDATE session SET state = ?, updated_at = ?, ended_at = ?, error = ?, phase = coalesce(?, phase) WHERE id = ?",
        (state, now, ended, storable(error) if error else None, phase, session_id),
    )
    return get_session(c, session_id)


def set_phase_state(
    c: Connection,
    session_id: str,
    phase: str,
    state: State,
    *,
    now: float,
    step: int | None = None,
    total_steps: int | None = None,
    report: Mapping[str, Any] | None = None,
) -> None:
    """Move a phase run to another state; staying in a state only updates its figures.

    Raises:
        IllegalTransitionError: it cannot get there from where it is.
    """
    row = c.execute("SELECT state FROM phase_run WHERE session_id = ? AND phase = ?", (session_id, phase)).fetchone()
    if row is None:
        raise NotFoundError(f"session {session_id} has no phase {phase}.")
    if row[0] != state:
        check_transition(State(row[0]), state, what=f"phase {phase}")
    c.execute(
        "UPDATE phase_run SET state = ?, step = coalesce(?, step), total_steps = coalesce(?, total_steps), "
        "report = coalesce(?, report), started_at = coalesce(started_at, ?), ended_at = ? "
        "WHERE session_id = ? AND phase = ?",
        (
            state,
            step,
            total_steps,
            _json(report) if report is not None else None,
            now,
            None if state in LIVE else now,
            session_id,
            phase,
        ),
    )


def take_lease(c: Connection, session_id: str, token: str, owner: str, now: float) -> None:
    """Record who runs a session now."""
    c.execute(
        "UPDATE session SET lease = ?, owner = ?, updated_at = ? WHERE id = ?", (token, owner, now, session_id)
    )


def drop_lease(c: Connection, session_id: str, token: str) -> None:
    """Forget an owner that ended, and void what it was still asked for."""
    c.execute("UPDATE session SET lease = NULL, owner = NULL WHERE id = ? AND lease = ?", (session_id, token))
    c.execute(
        "UPDATE command SET state = 'void', answer = 'the run ended first' "
        "WHERE session_id = ? AND lease = ? AND state IN ('requested', 'claimed')",
        (session_id, token),
    )


def add_event(
    c: Connection,
    session_id: str,
    *,
    kind: str,
    message: str,
    now: float,
    phase: str | None = None,
    step: int | None = None,
    level: str = "info",
) -> int:
    """Add an event; returns its id."""
    cursor = c.execute(
        "INSERT INTO event (session_id, at, phase, step, level, kind, message) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (session_id, now, phase, step, level, kind, storable(message)),
    )
    return int(cursor.lastrowid)


def add_checkpoint(
    c: Connection, session_id: str, *, phase: str, step: int, path: str, bytes: int, seconds: float, now: float
) -> None:
    """Record a checkpoint whose manifest landed."""
    c.execute(
        "INSERT OR REPLACE INTO checkpoint (session_id, phase, step, path, bytes, seconds, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (session_id, phase, step, path, bytes, seconds, now),
    )


def forget_checkpoint(c: Connection, session_id: str, phase: str, step: int) -> None:
    """Remove the row of a checkpoint that is no longer there."""
    c.execute("DELETE FROM checkpoint WHERE session_id = ? AND phase = ? AND step = ?", (session_id, phase, step))


def add_model(c: Connection, row: ModelRow, parents: Mapping[str, float]) -> None:
    """Record a model and where it came from."""
    c.execute(
        "INSERT INTO model (id, session_id, phase, name, created_at, parameters, bytes, path, metrics) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.id,
            row.session_id,
            row.phase,
            storable(row.name),
            row.created_at,
            row.parameters,
            row.bytes,
            row.path,
            _json(row.metrics),
        ),
    )
    for parent, weight in parents.items():
        c.execute("INSERT INTO model_parent VALUES (?, ?, ?)", (row.id, parent, weight))


def request_command(
    c: Connection, session_id: str, kind: str, *, args: Mapping[str, Any], requested_by: str, now: float
) -> CommandRow:
    """Ask the owner of a session for something; the command is meant for its present lease.

    Raises:
        ForgeError: nobody runs the session.
    """
    row = get_session(c, session_id)
    if row.lease is None or row.state not in LIVE:
        raise ForgeError(
            f'{row.name} is {row.state}, nobody runs it; there is nothing to {kind}. Go on with "forge resume {row.name}".'
        )
    cursor = c.execute(
        "INSERT INTO command (session_id, lease, kind, args, requested_by, requested_at, state) "
        "VALUES (?, ?, ?, ?, ?, ?, 'requested')",
        (session_id, row.lease, kind, _json(args), storable(requested_by), now),
    )
    return fetch(c, queries.command(cursor.lastrowid))[0]


def claim_commands(c: Connection, session_id: str, lease: str, now: float) -> list[CommandRow]:
    """Take what was requested of this lease, oldest first; what was meant for another is void."""
    c.execute(
        "UPDATE command SET state = 'void', answered_at = ?, answer = 'meant for an owner that is gone' "
        "WHERE session_id = ? AND lease != ? AND state IN ('requested', 'claimed')",
        (now, session_id, lease),
    )
    ids = [
        row[0]
        for row in c.execute(
            "SELECT id FROM command WHERE session_id = ? AND lease = ? AND state = 'requested' ORDER BY id LIMIT 1000",
            (session_id, lease),
        ).fetchall()
    ]
    c.executemany("UPDATE command SET state = 'claimed' WHERE id = ?", [(i,) for i in ids])
    return [fetch(c, queries.command(i))[0] for i in ids]


def answer_command(c: Connection, command_id: int, state: str, answer: str, now: float) -> None:
    """Record what became of a command: `done` or `refused`."""
    c.execute(
        "UPDATE command SET state = ?, answer = ?, answered_at = ? WHERE id = ?",
        (state, storable(answer), now, command_id),
    )


def _json(value: Mapping[str, Any]) -> str:
    # NaN is not JSON; a figure that could not be measured is null.
    def clean(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return None
        if isinstance(item, Mapping):
            return {str(k): clean(v) for k, v in item.items()}
        if isinstance(item, (list, tuple)):
            return [clean(v) for v in item]
        return item

    return json.dumps(clean(value), ensure_ascii=True)
