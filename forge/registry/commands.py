"""Who runs a session, and what is asked of them: leases and command rows.

A command belongs to one lease: an owner never carries out what was asked of the one before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from forge.errors import IllegalTransitionError
from forge.registry import queries
from forge.registry.lookup import get_session, require, row_id
from forge.registry.query import clean, clean_or_none, fetch
from forge.registry.rows import CommandRow
from forge.registry.sqlite import Connection

_OWNER_GONE = "the process that it was meant for has ended"


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


def request_command(
    c: Connection, session_id: str, kind: str, *, args: Mapping[str, Any], requested_by: str, now: float
) -> CommandRow:
    """Ask the present owner of a session for something; one that is only starting answers at its first step.

    Raises:
        NotFoundError: no such session.
        IllegalTransitionError: nobody runs the session, so nobody would answer.
    """
    session = get_session(c, session_id)
    # A lease outlives the end of its run by a moment: what is asked then becomes void with it.
    if session.lease is None:
        raise IllegalTransitionError(
            f"session {session.name} is {session.state} and nobody runs it, so it cannot {clean(kind)}. "
            f'Start it with "forge resume {session.name}".'
        )
    cursor = c.execute(
        """INSERT INTO command (session_id, lease, kind, args, requested_by, requested_at, state)
            VALUES (?, ?, ?, ?, ?, ?, 'requested')""",
        [session.id, session.lease, clean(kind), json.dumps(dict(args)), clean(requested_by), now],
    )
    return require(c, queries.command(row_id(cursor.lastrowid)), "command")


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
    return [require(c, queries.command(command_id), "command") for command_id in mine]


def answer_command(
    c: Connection, command_id: int, state: Literal["done", "refused"], answer: str, now: float
) -> CommandRow:
    """Record what became of a command; the first answer stands, and a void one stays void."""
    c.execute(
        """UPDATE command SET state = ?, answer = ?, answered_at = ?
            WHERE id = ? AND state IN ('requested', 'claimed')""",
        [state, clean(answer), now, command_id],
    )
    return require(c, queries.command(command_id), f"command {command_id}")


def _void(c: Connection, session_id: str, lease: str | None, now: float) -> None:
    c.execute(
        """UPDATE command SET state = 'void', answered_at = ?, answer = ?
            WHERE session_id = ? AND state IN ('requested', 'claimed') AND lease IS NOT ?""",
        [now, _OWNER_GONE, session_id, clean_or_none(lease)],
    )
