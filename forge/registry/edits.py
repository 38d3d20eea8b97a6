"""Every change to the registry, as functions that run inside `Registry.write`.

They neither begin nor commit: whatever one `write` does happens as a whole, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from forge.errors import ForgeError, NotFoundError, RegistryError
from forge.registry import queries
from forge.registry.lifecycle import LIVE, State, check_transition
from forge.registry.query import Query, T, clean, clean_or_none, fetch, integer
from forge.registry.rows import CommandRow, ModelRow, PhaseRunRow, SessionRow
from forge.registry.sqlite import Connection, one_value

_ENDED = frozenset({State.COMPLETED, State.FAILED, State.STOPPED, State.INTERRUPTED})
_OWNER_GONE = "the process that it was meant for has ended"


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
    c: Connection, session_id: str, state: State, *, now: float, error: str | None = None, phase: str | None = None
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
        "UPDATE session SET state = ?, updated_at = ?, ended_at = ?, error = ?, phase = coalesce(?, phase) WHERE id = ?",
        [str(state), now, ended_at, kept if error is None else clean(error), clean_or_none(phase), before.id],
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
) -> PhaseRunRow:
    """Move the latest run of a phase to another state; what is none stays as it is.

    Raises:
        NotFoundError: the session has no such phase.
        IllegalTransitionError: it cannot get there from where it is; nothing changes.
    """
    before = _one(c, queries.latest_phase_run(session_id, phase), f"phase {phase!r} in session {session_id}")
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
    return _one(c, queries.latest_phase_run(session_id, phase), "phase run")


def enter_phase(c: Connection, session_id: str, phase: str, now: float) -> None:
    """Record which phase of a session runs now."""
    c.execute("UPDATE session SET phase = ?, updated_at = ? WHERE id = ?", (phase, now, session_id))


def take_lease(c: Connection, session_id: str, token: str, owner: str, now: float) -> None:
    """Record who runs a session; what was asked of the owner before becomes void."""
    session = get_session(c, session_id)
    c.execute(
        "UPDATE session SET lease = ?, owner = ?, updated_at = ? WHERE id = ?",
        [clean(token), clean(owner), now, session.id],
    )
    _void(c, session.id, token, now)


def drop_lease(c: Connection, session_id: str, token: str, now: float | None = None) -> None:
    """Record that this owner is gone; without effect when another has taken the lease since.

    Args:
        c: the connection inside `Registry.write`.
        session_id: the session.
        token: the lease that ends.
        now: time of answer of commands nobody will answer any more; the session's last change by default.
    """
    session = get_session(c, session_id)
    if session.lease != clean(token):
        return
    c.execute("UPDATE session SET lease = NULL, owner = NULL WHERE id = ?", [session.id])
    _void(c, session.id, None, session.updated_at if now is None else now)


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
    """Add an event and return its id. An unknown level becomes `info`: an event is never lost for its label."""
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
    return _row_id(cursor.lastrowid)


def add_checkpoint(
    c: Connection, session_id: str, *, phase: str, step: int, path: str, bytes: int, seconds: float, now: float
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


def request_command(
    c: Connection, session_id: str, kind: str, *, args: Mapping[str, Any], requested_by: str, now: float
) -> CommandRow:
    """Ask the present owner of a session for something.

    Raises:
        NotFoundError: no such session.
        ForgeError: nobody runs the session, so nobody would answer.
    """
    session = get_session(c, session_id)
    if session.lease is None or session.state not in LIVE:
        raise ForgeError(
            f"session {session.name} is {session.state} and nobody runs it, so it cannot {clean(kind)}. "
            f'Start it with "forge resume {session.name}".'
        )
    cursor = c.execute(
        """INSERT INTO command (session_id, lease, kind, args, requested_by, requested_at, state)
            VALUES (?, ?, ?, ?, ?, ?, 'requested')""",
        [session.id, session.lease, clean(kind), json.dumps(dict(args)), clean(requested_by), now],
    )
    return _one(c, queries.command(_row_id(cursor.lastrowid)), "command")


def claim_commands(c: Connection, session_id: str, lease: str, now: float) -> list[CommandRow]:
    """Take what was asked of this lease, oldest first; what was asked of an earlier owner becomes void.

    Changes nothing when nothing is asked, and claims nothing for a lease that is no longer the session's.
    """
    waiting = fetch(c, queries.open_commands(session_id))
    if not waiting:
        return []
    current = get_session(c, session_id).lease
    if any(command.lease != current for command in waiting):
        _void(c, clean(session_id), current, now)
    if clean(lease) != current:
        return []
    mine = [command.id for command in waiting if command.lease == current and command.state == "requested"]
    for command_id in mine:
        c.execute("UPDATE command SET state = 'claimed' WHERE id = ?", [command_id])
    return [_one(c, queries.command(command_id), "command") for command_id in mine]


def answer_command(
    c: Connection, command_id: int, state: Literal["done", "refused"], answer: str, now: float
) -> CommandRow:
    """Record what became of a command; the first answer stands, and a void one stays void."""
    c.execute(
        """UPDATE command SET state = ?, answer = ?, answered_at = ?
            WHERE id = ? AND state IN ('requested', 'claimed')""",
        [state, clean(answer), now, command_id],
    )
    return _one(c, queries.command(command_id), f"command {command_id}")


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


def get_session(c: Connection, session_id: str) -> SessionRow:
    """One session.

    Raises:
        NotFoundError: there is none with this id.
    """
    return _one(c, queries.session(session_id), f"session {clean(session_id)}")


def _one(c: Connection, query: Query[T], what: str) -> T:
    found = fetch(c, query)
    if not found:
        raise NotFoundError(f'there is no {what}. "forge sessions" lists what there is.')
    return found[0]


def _row_id(row_id: int | None) -> int:
    if row_id is None:
        raise RegistryError("SQLite gave no id for a new row; nothing was written.")
    return row_id


def _free_name(c: Connection, name: str, besides: str = "") -> str:
    wanted = clean(name).strip()
    if not wanted:
        raise RegistryError("a session needs a name that is not empty.")
    final, number = wanted, 1
    while one_value(c, "SELECT 1 FROM session WHERE name = ? AND id <> ?", [final, besides]):
        number += 1
        final = f"{wanted}-{number}"
    return final


def _void(c: Connection, session_id: str, lease: str | None, now: float) -> None:
    c.execute(
        """UPDATE command SET state = 'void', answered_at = ?, answer = ?
            WHERE session_id = ? AND state IN ('requested', 'claimed') AND lease IS NOT ?""",
        [now, _OWNER_GONE, session_id, clean_or_none(lease)],
    )


def _touch(c: Connection, session_id: str, now: float) -> None:
    c.execute("UPDATE session SET updated_at = ? WHERE id = ?", [now, session_id])


def _edited(c: Connection, session_id: str, now: float | None) -> SessionRow:
    if now is not None:
        _touch(c, session_id, now)
    return get_session(c, session_id)
