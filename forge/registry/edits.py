"""Every change to the registry, as functions that run inside `Registry.write`.

They neither begin nor commit: whatever one `write` does happens as a whole, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from forge.errors import RegistryError
from forge.registry import queries
from forge.registry.commands import answer_command, claim_commands, drop_lease, request_command, take_lease
from forge.registry.lifecycle import LIVE, State, check_transition
from forge.registry.lookup import get_session, require, row_id
from forge.registry.query import clean, clean_or_none, integer
from forge.registry.rows import ModelRow, PhaseRunRow, SessionRow
from forge.registry.sqlite import Connection, one_value

__all__ = [
    "add_checkpoint",
    "add_event",
    "add_model",
    "answer_command",
    "claim_commands",
    "create_session",
    "drop_lease",
    "enter_phase",
    "forget_checkpoint",
    "get_session",
    "rename_session",
    "request_command",
    "set_note",
    "set_phase_state",
    "set_pinned",
    "set_session_state",
    "take_lease",
]

_ENDED = frozenset({State.COMPLETED, State.FAILED, State.STOPPED, State.INTERRUPTED})


def create_session(
    c: Connection, *, id: str, name: str, preset: str, phases: Sequence[tuple[str, int]], now: float
) -> str:
    """Add a session and one run of each `(phase, total steps)`.

    Returns:
        Its name: the one asked for, with `-2`, `-3` … behind it where that is taken.

    Raises:
        RegistryError: the name is empty, or the id is taken.
    """
    id = clean(id)
    if one_value(c, "SELECT 1 FROM session WHERE id = ?", [id]):
        raise RegistryError(f"there is a session with the id {id} already; start the command again.")
    final = _free_name(c, name)
    c.execute(
        "INSERT INTO session (id, name, state, preset, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
        [id, final, str(State.CREATED), clean(preset), now, now],
    )
    for position, (phase, total_steps) in enumerate(phases):
        c.execute(
            "INSERT INTO phase_run (session_id, phase, position, state, total_steps) VALUES (?, ?, ?, ?, ?)",
            [id, clean(phase), position, str(State.CREATED), integer(total_steps)],
        )
    return final


def set_session_state(
    c: Connection,
    session_id: str,
    state: State,
    *,
    now: float,
    error: str | None = None,
    phase: str | None = None,
) -> SessionRow:
    """Move a session to another state; `error` is why it failed, `phase` the one that runs.

    Raises:
        NotFoundError: no such session.
        IllegalTransitionError: it cannot get there from where it is; nothing changes.
    """
    before = get_session(c, session_id)
    check_transition(before.state, state, what=f"session {before.name}")
    ended_at = before.ended_at
    if state in _ENDED and before.state is not State.TRASHED:
        ended_at = now
    elif state in LIVE:
        ended_at = None
    # What went wrong last time is over once it runs again, and stays to be read until then.
    kept = None if state is State.RUNNING else before.error
    c.execute(
        """UPDATE session SET state = ?, updated_at = ?, ended_at = ?, error = ?, phase = coalesce(?, phase)
            WHERE id = ?""",
        [str(state), now, ended_at, kept if error is None else clean(error), clean_or_none(phase), before.id],
    )
    return get_session(c, session_id)


def enter_phase(c: Connection, session_id: str, phase: str, now: float) -> None:
    """Record which phase a session is in."""
    session = get_session(c, session_id)
    c.execute("UPDATE session SET phase = ?, updated_at = ? WHERE id = ?", [clean(phase), now, session.id])


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
) -> PhaseRunRow:
    """Move the latest run of a phase to another state; what is none stays as it is.

    A live run may be given the state it has, to record how far it got: that is no transition.

    Raises:
        NotFoundError: the session has no such phase.
        IllegalTransitionError: it cannot get there from where it is; nothing changes.
    """
    latest = queries.latest_phase_run(session_id, phase)
    before = require(c, latest, f"phase {clean(phase)} in session {clean(session_id)}")
    if state is not before.state or state not in LIVE:
        check_transition(before.state, state, what=f"phase {before.phase}")
    started_at = now if state is State.RUNNING and before.started_at is None else before.started_at
    ended_at = now if state in _ENDED else None
    c.execute(
        """UPDATE phase_run SET state = ?, started_at = ?, ended_at = ?, step = coalesce(?, step),
            total_steps = coalesce(?, total_steps), report = coalesce(?, report) WHERE id = ?""",
        [
            str(state),
            started_at,
            ended_at,
            None if step is None else integer(step),
            None if total_steps is None else integer(total_steps),
            None if report is None else json.dumps(report),
            before.id,
        ],
    )
    return require(c, latest, "phase run")


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
    """Add an event and return its id. An unknown level becomes `info`: no event is lost for its label."""
    known = level if level in ("info", "warning", "error") else "info"
    cursor = c.execute(
        "INSERT INTO event (session_id, at, phase, step, level, kind, message) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            clean(session_id),
            now,
            clean_or_none(phase),
            None if step is None else integer(step),
            known,
            clean(kind),
            clean(message),
        ],
    )
    return row_id(cursor.lastrowid)


def add_checkpoint(
    c: Connection,
    session_id: str,
    *,
    phase: str,
    step: int,
    path: str,
    bytes: int,
    seconds: float,
    now: float,
) -> None:
    """Record a checkpoint whose manifest landed, and with it how far its phase got."""
    session_id, phase = clean(session_id), clean(phase)
    c.execute(
        """INSERT OR REPLACE INTO checkpoint (session_id, phase, step, path, bytes, seconds, created_at)
            VALUES (?, ?, ?, ?, ?, ?, ?)""",
        [session_id, phase, integer(step), clean(path), integer(bytes), seconds, now],
    )
    c.execute(
        """UPDATE phase_run SET step = ? WHERE id =
            (SELECT max(id) FROM phase_run WHERE session_id = ? AND phase = ?)""",
        [integer(step), session_id, phase],
    )
    _touch(c, session_id, now)


def forget_checkpoint(c: Connection, session_id: str, phase: str, step: int) -> None:
    """Remove the record of a checkpoint whose files are gone; without effect when there is none."""
    c.execute(
        "DELETE FROM checkpoint WHERE session_id = ? AND phase = ? AND step = ?",
        [clean(session_id), clean(phase), integer(step)],
    )


def add_model(c: Connection, row: ModelRow, parents: Mapping[str, float]) -> None:
    """Record a produced model and its lineage: parent id to weight."""
    c.execute(
        f"INSERT INTO model ({queries.columns(ModelRow)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            clean(row.id),
            clean(row.session_id),
            clean(row.phase),
            clean(row.name),
            row.created_at,
            integer(row.parameters),
            integer(row.bytes),
            clean(row.path),
            json.dumps(row.metrics),
        ],
    )
    for parent, weight in parents.items():
        c.execute("INSERT INTO model_parent VALUES (?, ?, ?)", [clean(row.id), clean(parent), weight])
    _touch(c, clean(row.session_id), row.created_at)


def rename_session(c: Connection, session_id: str, name: str, now: float | None = None) -> SessionRow:
    """Give a session another name, with a number behind it where that is taken."""
    session = get_session(c, session_id)
    final = _free_name(c, name, besides=session.id)
    c.execute("UPDATE session SET name = ? WHERE id = ?", [final, session.id])
    return _edited(c, session.id, now)


def set_note(c: Connection, session_id: str, note: str, now: float | None = None) -> SessionRow:
    """Replace the note of a session."""
    session = get_session(c, session_id)
    c.execute("UPDATE session SET note = ? WHERE id = ?", [clean(note), session.id])
    return _edited(c, session.id, now)


def set_pinned(c: Connection, session_id: str, pinned: bool, now: float | None = None) -> SessionRow:
    """Pin a session, so that no cleanup takes it, or let it go."""
    session = get_session(c, session_id)
    c.execute("UPDATE session SET pinned = ? WHERE id = ?", [int(pinned), session.id])
    return _edited(c, session.id, now)


def _free_name(c: Connection, name: str, besides: str = "") -> str:
    wanted = clean(name).strip()
    if not wanted:
        raise RegistryError("a session needs a name that is not empty.")
    final, number = wanted, 1
    while one_value(c, "SELECT 1 FROM session WHERE name = ? AND id <> ?", [final, besides]):
        number += 1
        final = f"{wanted}-{number}"
    return final


def _touch(c: Connection, session_id: str, now: float) -> None:
    c.execute("UPDATE session SET updated_at = ? WHERE id = ?", [now, session_id])


def _edited(c: Connection, session_id: str, now: float | None) -> SessionRow:
    if now is not None:
        _touch(c, session_id, now)
    return get_session(c, session_id)
