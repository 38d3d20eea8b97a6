"""Trash, tags and audit: what cleanup asks of the registry, and what it changes there.

The edits run inside `Registry.write`. A deletion and its record in `audit` are one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from forge.errors import ForgeError
from forge.registry.lifecycle import State, check_transition
from forge.registry.lookup import get_session, require
from forge.registry.queries import columns, reader
from forge.registry.query import MAX_LIMIT, Query, bounded, clean, clean_or_none, integer
from forge.registry.rows import AuditRow, CandidateRow, SessionRow, TrashRow
from forge.registry.sqlite import Connection, one_value

UNDO = "undo"
"""The audit action that brings a session back."""

_SESSION_COLUMNS = ", ".join(f"session.{name}" for name in SessionRow.model_fields)
# Correlated, each on an index: one statement, however many sessions there are.
_CANDIDATE = f"""SELECT {_SESSION_COLUMNS},
        (SELECT json_group_array(tag) FROM session_tag WHERE session_id = session.id),
        EXISTS (SELECT 1 FROM checkpoint WHERE session_id = session.id),
        (SELECT max(at) FROM audit WHERE session_id = session.id AND action = '{UNDO}')
    FROM session WHERE state <> '{State.TRASHED}'"""
_TRASH = """SELECT session_id, session.name, state_before, trashed_at, actor, reason, bytes, purging
    FROM trash JOIN session ON session.id = trash.session_id"""
_KIN = """FROM model_parent
    JOIN model AS child ON child.id = model_parent.model_id
    JOIN model AS parent ON parent.id = model_parent.parent_id"""

_read_session = reader(SessionRow)
_read_trash = reader(TrashRow)
_read_audit = reader(AuditRow)


def candidates(session_id: str | None = None) -> Query[CandidateRow]:
    """Every session outside the trash, or one of them, with what decides over it."""
    sql = f"{_CANDIDATE} AND (?1 IS NULL OR id = ?1) ORDER BY created_at DESC, id DESC LIMIT ?2"
    return Query(sql, [clean_or_none(session_id), MAX_LIMIT], _read_candidate)


def lineage() -> Query[tuple[str, str]]:
    """Every pair of sessions of which a model of the first has a parent in the second."""
    sql = f"""SELECT DISTINCT child.session_id, parent.session_id {_KIN}
        WHERE child.session_id <> parent.session_id LIMIT ?"""
    return Query(sql, [MAX_LIMIT], lambda row: (str(row[0]), str(row[1])))


def kept_child(session_id: str) -> Query[str]:
    """The name of a session outside the trash with a model whose parent is in this session; or no row."""
    sql = f"""SELECT session.name {_KIN} JOIN session ON session.id = child.session_id
        WHERE parent.session_id = ?1 AND child.session_id <> ?1 AND session.state <> ?2 LIMIT 1"""
    return Query(sql, [clean(session_id), str(State.TRASHED)], lambda row: str(row[0]))


def trash(limit: int = MAX_LIMIT) -> Query[TrashRow]:
    """Sessions in the trash, the one that came last first."""
    sql = f"{_TRASH} ORDER BY trashed_at DESC, session_id DESC LIMIT ?"
    return Query(sql, [bounded(limit)], _read_trash)


def trashed(session_id: str) -> Query[TrashRow]:
    """One session in the trash."""
    return Query(f"{_TRASH} WHERE session_id = ? LIMIT 1", [clean(session_id)], _read_trash)


def trashed_ancestors(session_id: str) -> Query[str]:
    """Ids of sessions in the trash that a session's models descend from, the most distant first."""
    sql = f"""WITH RECURSIVE up(id, depth) AS (
            SELECT ?1, 0
            UNION
            SELECT parent.session_id, depth + 1 {_KIN} JOIN up ON child.session_id = up.id
            WHERE parent.session_id <> child.session_id AND depth < 100
        ) SELECT id FROM up JOIN trash ON trash.session_id = up.id WHERE id <> ?1
        GROUP BY id ORDER BY max(depth) DESC, id LIMIT ?2"""
    return Query(sql, [clean(session_id), MAX_LIMIT], lambda row: str(row[0]))


def session_states() -> Query[tuple[str, State]]:
    """Id and state of every session, the trash included."""
    return Query("SELECT id, state FROM session LIMIT ?", [MAX_LIMIT], lambda row: (row[0], State(row[1])))


def recorded_phases(session_id: str | None = None) -> Query[tuple[str, str, State]]:
    """Session, phase and state of the latest attempt at every phase, in order, of one session or of all."""
    sql = """SELECT session_id, phase, state FROM phase_run WHERE id IN
        (SELECT max(id) FROM phase_run WHERE (?1 IS NULL OR session_id = ?1) GROUP BY session_id, phase)
        ORDER BY session_id, position LIMIT ?2"""
    return Query(sql, [clean_or_none(session_id), MAX_LIMIT], lambda row: (row[0], row[1], State(row[2])))


def recorded_checkpoints(session_id: str | None = None) -> Query[tuple[str, str, int]]:
    """Session, phase and step of every recorded checkpoint, of one session or of all."""
    sql = """SELECT session_id, phase, step FROM checkpoint WHERE (?1 IS NULL OR session_id = ?1)
        ORDER BY id LIMIT ?2"""
    return Query(sql, [clean_or_none(session_id), MAX_LIMIT], lambda row: (row[0], row[1], int(row[2])))


def recorded_models(session_id: str | None = None) -> Query[tuple[str, str, str, str]]:
    """Session, id, name and path of every recorded model, of one session or of all."""
    sql = """SELECT session_id, id, name, path FROM model WHERE (?1 IS NULL OR session_id = ?1)
        ORDER BY created_at, id LIMIT ?2"""
    return Query(sql, [clean_or_none(session_id), MAX_LIMIT], lambda row: (row[0], row[1], row[2], row[3]))


def told(kind: str) -> Query[tuple[str, str]]:
    """Session and message of every event of a kind; `missing` is what `mark_missing` was given."""
    sql = "SELECT session_id, message FROM event WHERE kind = ? ORDER BY id LIMIT ?"
    return Query(sql, [clean(kind), MAX_LIMIT], lambda row: (str(row[0]), str(row[1])))


def audit(limit: int, session_id: str | None = None) -> Query[AuditRow]:
    """The newest records of deletions, of one session or of all."""
    sql = f"""SELECT {columns(AuditRow)} FROM audit WHERE (?1 IS NULL OR session_id = ?1)
        ORDER BY id DESC LIMIT ?2"""
    return Query(sql, [clean_or_none(session_id), bounded(limit)], _read_audit)


def tags(session_ids: Collection[str]) -> Query[tuple[str, str]]:
    """Pairs of session and tag, of these sessions, by session and tag."""
    sql = """SELECT session_id, tag FROM session_tag WHERE session_id IN (SELECT value FROM json_each(?))
        ORDER BY session_id, tag LIMIT ?"""
    ids = json.dumps([clean(session_id) for session_id in session_ids])
    return Query(sql, [ids, MAX_LIMIT], lambda row: (str(row[0]), str(row[1])))


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The pairs of `tags` by session."""
    found: dict[str, tuple[str, ...]] = {}
    for session_id, tag in pairs:
        found[session_id] = (*found.get(session_id, ()), tag)
    return found


def set_tags(c: Connection, session_id: str, tags: Collection[str], now: float | None = None) -> None:
    """Replace the tags of a session; blanks around a tag do not count, and an empty one is none.

    Without a time it does not count as a change of the session: its age stays what it is.
    """
    session = get_session(c, session_id)
    kept = {clean(tag).strip() for tag in tags} - {""}
    c.execute("DELETE FROM session_tag WHERE session_id = ?", [session.id])
    for tag in sorted(kept):
        c.execute("INSERT INTO session_tag VALUES (?, ?)", [session.id, tag])
    if now is not None:
        c.execute("UPDATE session SET updated_at = ? WHERE id = ?", [now, session.id])


def add_audit(
    c: Connection,
    *,
    actor: str,
    action: str,
    now: float,
    session_id: str | None,
    path: str | None = None,
    bytes: int | None = None,
    detail: str = "",
) -> None:
    """Record what was done to a session's files."""
    size = None if bytes is None else integer(bytes)
    c.execute(
        "INSERT INTO audit (at, actor, action, session_id, path, bytes, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            now,
            clean(actor),
            clean(action),
            clean_or_none(session_id),
            clean_or_none(path),
            size,
            clean(detail),
        ],
    )


def add_deletion(
    c: Connection, session_id: str, what: str, *, actor: str, action: str, now: float, path: str = "",
    bytes: int | None = None,
) -> None:  # fmt: skip
    """Record the deletion of a part of a session that stays; `path` is below its folder."""
    name = get_session(c, session_id).name
    below = f"sessions/{session_id}/{path}".rstrip("/")
    add_audit(c, actor=actor, action=action, now=now, session_id=session_id, path=below, bytes=bytes,
              detail=f"{name}: {what}")  # fmt: skip


def trash_session(
    c: Connection, session_id: str, *, actor: str, reason: str, bytes: int, path: str, now: float
) -> TrashRow:
    """Mark a session as trashed and remember its state; nothing else of its row changes.

    Raises:
        NotFoundError: no such session.
        IllegalTransitionError: it is live, or in the trash already.
    """
    session = get_session(c, session_id)
    check_transition(session.state, State.TRASHED, what=f"session {session.name}")
    c.execute("UPDATE session SET state = ? WHERE id = ?", [str(State.TRASHED), session.id])
    c.execute(
        """INSERT INTO trash (session_id, state_before, trashed_at, actor, reason, bytes)
            VALUES (?, ?, ?, ?, ?, ?)""",
        [session.id, str(session.state), now, clean(actor), clean(reason), integer(bytes)],
    )
    add_audit(c, actor=actor, action="trash", now=now, session_id=session.id, path=path, bytes=bytes,
              detail=f"{session.name}: {reason}")  # fmt: skip
    return require(c, trashed(session.id), f"session {session.name} in the trash")


def restore_session(
    c: Connection, session_id: str, *, actor: str, path: str, now: float, action: str = UNDO, detail: str = ""
) -> SessionRow:
    """Bring a session back to the state that it had before it was trashed.

    Raises:
        NotFoundError: it is not in the trash.
        ForgeError: its files are being deleted already.
    """
    row = _in_trash(c, session_id)
    if row.purging:
        raise ForgeError(f"{row.name} is being deleted and cannot be brought back.")
    check_transition(State.TRASHED, row.state_before, what=f"session {row.name}")
    c.execute("UPDATE session SET state = ? WHERE id = ?", [str(row.state_before), row.session_id])
    c.execute("DELETE FROM trash WHERE session_id = ?", [row.session_id])
    add_audit(c, actor=actor, action=action, now=now, session_id=row.session_id, path=path, bytes=row.bytes,
              detail=f"{row.name}: {detail or 'back to ' + row.state_before}")  # fmt: skip
    return get_session(c, row.session_id)


def begin_purge(c: Connection, session_id: str, *, actor: str, path: str, now: float) -> TrashRow:
    """Record that the files of a trashed session are about to go; from here on there is no undo.

    Raises:
        NotFoundError: it is not in the trash.
    """
    row = _in_trash(c, session_id)
    if not row.purging:
        c.execute("UPDATE trash SET purging = 1 WHERE session_id = ?", [row.session_id])
        add_audit(c, actor=actor, action="purge", now=now, session_id=row.session_id, path=path,
                  bytes=row.bytes, detail=row.name)  # fmt: skip
    return _in_trash(c, session_id)


def end_purge(c: Connection, session_id: str, *, actor: str, path: str, bytes: int, now: float) -> None:
    """Delete every row of a session whose files are gone; its records in `audit` stay.

    Raises:
        NotFoundError: it is not in the trash.
        ForgeError: its purge has not begun.
    """
    row = _in_trash(c, session_id)
    if not row.purging:
        raise ForgeError(f"the files of {row.name} are not deleted yet, so its rows stay.")
    # Phases, models, checkpoints, handoffs, events, commands, tags and the trash row go with it.
    c.execute("DELETE FROM session WHERE id = ?", [row.session_id])
    add_audit(c, actor=actor, action="purged", now=now, session_id=row.session_id, path=path, bytes=bytes,
              detail=row.name)  # fmt: skip


def mark_missing(c: Connection, session_id: str, message: str, now: float) -> bool:
    """Add an event, once, about files of a session that are gone; returns whether it was news."""
    sql = "SELECT 1 FROM event WHERE session_id = ? AND kind = 'missing' AND message = ? LIMIT 1"
    if one_value(c, sql, [clean(session_id), clean(message)]):
        return False
    c.execute(
        "INSERT INTO event (session_id, at, level, kind, message) VALUES (?, ?, 'error', 'missing', ?)",
        [clean(session_id), now, clean(message)],
    )
    return True


def _in_trash(c: Connection, session_id: str) -> TrashRow:
    return require(c, trashed(session_id), f"session {clean(session_id)} in the trash")


def _read_candidate(values: tuple[Any, ...]) -> CandidateRow:
    *session, tags, has_checkpoint, restored_at = values
    return CandidateRow(
        session=_read_session(tuple(session)),
        tags=tuple(sorted(json.loads(tags))),
        has_checkpoint=bool(has_checkpoint),
        restored_at=restored_at,
    )
