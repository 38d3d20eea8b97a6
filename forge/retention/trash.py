"""Carry out a plan, and undo it: sessions into the trash and back.

Everything that protects a session is asked again inside the transaction that trashes it, while its lease and
its folder are locked: what the plan saw may have changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from forge import locks
from forge.errors import ForgeError, RegistryError
from forge.home import Home
from forge.registry import Connection, Registry, SessionRow, cleanup, fetch, queries
from forge.registry.lookup import require
from forge.retention import folders
from forge.retention.decisions import Decision, Plan, protection
from forge.retention.policy import SessionCleanupPolicy
from forge.retention.reconcile import alone, repair
from forge.retention.survey import Subject, look


@dataclass(frozen=True)
class Outcome:
    """What became of a plan."""

    trashed: tuple[Decision, ...]
    skipped: tuple[tuple[Decision, str], ...]
    """What was to go and stayed, each with the reason."""

    @property
    def bytes(self) -> int:
        """Size of what is in the trash now and was not before; the disk has it back when it is purged."""
        return sum(decision.bytes for decision in self.trashed)


@dataclass(frozen=True)
class Undone:
    """What came back from the trash."""

    sessions: tuple[SessionRow, ...]
    """Those that were asked for and those that they descend from, in the order in which they came back."""
    skipped: tuple[tuple[str, str], ...]
    """Ids of sessions that stay in the trash, each with the reason."""


class _StaysError(Exception):
    """A session that a plan wanted to trash has to stay; rolls the transaction back."""


def execute(home: Home, registry: Registry, plan: Plan, *, actor: str, now: float) -> Outcome:
    """Move the sessions of a plan into the trash; one that may not go any more stays, with the reason.

    Raises:
        ForgeError: another process is cleaning up.
        RegistryError: the registry cannot be written; what was done until then is whole.
    """
    trashed: list[Decision] = []
    skipped: list[tuple[Decision, str]] = []
    with alone(home):
        repair(home, registry, now)
        for decision in plan.to_trash:
            try:
                _trash(home, registry, decision, plan.policy, actor, now)
                trashed.append(decision)
            except _StaysError as why:
                skipped.append((decision, str(why)))
            except OSError as error:
                skipped.append((decision, f"{error.filename}: {error.strerror}"))
            except folders.NotOursError as error:
                skipped.append((decision, str(error)))
    return Outcome(tuple(trashed), tuple(skipped))


def undo(home: Home, registry: Registry, session_id: str, *, actor: str, now: float) -> list[SessionRow]:
    """Bring a session back, and before it the trashed ones that it descends from; it comes last.

    Raises:
        NotFoundError: it is not in the trash.
        ForgeError: it is being deleted, its files are gone, or another process is cleaning up.
    """
    with alone(home):
        repair(home, registry, now)
        return _undo(home, registry, session_id, actor, now)


def undo_all(home: Home, registry: Registry, session_ids: Sequence[str], *, actor: str, now: float) -> Undone:
    """Bring several sessions back; one that cannot come stays in the trash, with the reason.

    Raises:
        ForgeError: another process is cleaning up.
        RegistryError: the registry cannot be written; what came back until then is whole.
    """
    back: dict[str, SessionRow] = {}
    skipped: list[tuple[str, str]] = []
    with alone(home):
        repair(home, registry, now)
        for session_id in session_ids:
            if session_id in back:
                continue
            try:
                back |= {row.id: row for row in _undo(home, registry, session_id, actor, now)}
            except RegistryError:
                raise
            except OSError as error:
                skipped.append((session_id, f"{error.filename}: {error.strerror}"))
            except ForgeError as error:
                skipped.append((session_id, str(error)))
    return Undone(tuple(back.values()), tuple(skipped))


def _undo(home: Home, registry: Registry, session_id: str, actor: str, now: float) -> list[SessionRow]:
    row = registry.write(
        lambda c: require(c, cleanup.trashed(session_id), f"session {session_id} in the trash")
    )
    if not folders.is_there(folders.place(home.trash, row.session_id)):
        raise ForgeError(
            f"the files of {row.name} are gone from {home.trash}, so it cannot be brought back. "
            f"Put them back from a copy, or delete what is left of it: forge trash empty."
        )
    kin = registry.fetch(cleanup.trashed_ancestors(row.session_id))
    there = [i for i in kin if folders.is_there(folders.place(home.trash, i))]
    return [_restore(home, registry, i, actor, now) for i in [*there, row.session_id]]


def _trash(
    home: Home, registry: Registry, decision: Decision, policy: SessionCleanupPolicy, actor: str, now: float
) -> None:
    session_id = decision.session.id
    root, target = folders.place(home.sessions, session_id), folders.place(home.trash, session_id)
    with ExitStack() as held:
        exists = folders.is_there(root)
        if exists:
            folders.check_move(root, target)
            if not held.enter_context(locks.hold(home.session(session_id).lease)):
                raise _StaysError("somebody holds its lease")
            if not held.enter_context(locks.hold(root)):
                raise _StaysError("it is being exported")
        registry.write(lambda c: _mark(c, home, decision, policy, actor, now))
        if exists:
            folders.move(root, target)


def _mark(
    c: Connection, home: Home, decision: Decision, policy: SessionCleanupPolicy, actor: str, now: float
) -> None:
    """The deleting transaction: ask again, then mark."""
    planned = decision.session
    found = fetch(c, cleanup.candidates(planned.id))
    if not found:
        raise _StaysError("it is gone, or in the trash already")
    subject = look(home, found[0])
    # That the locks are taken is our own doing.
    subject = replace(subject, leased=False, exported=False)
    children = fetch(c, cleanup.kept_child(planned.id))
    if why := protection(subject, policy, now, children[0] if children else None):
        raise _StaysError(why)
    if _moved_on(subject, planned):
        raise _StaysError("it has changed since the plan was made")
    path = str(home.session(planned.id).root.relative_to(home.root))
    cleanup.trash_session(
        c, planned.id, actor=actor, reason=decision.reason, bytes=subject.bytes, path=path, now=now
    )


def _moved_on(subject: Subject, planned: SessionRow) -> bool:
    """Whether somebody did something with a session since the plan was made."""
    row = subject.session
    return (row.state, row.ended_at, row.updated_at) != (planned.state, planned.ended_at, planned.updated_at)


def _restore(home: Home, registry: Registry, session_id: str, actor: str, now: float) -> SessionRow:
    source, target = folders.place(home.trash, session_id), folders.place(home.sessions, session_id)
    folders.check_move(source, target)
    path = str(source.relative_to(home.root))
    registry.write(lambda c: cleanup.restore_session(c, session_id, actor=actor, path=path, now=now))
    try:
        folders.move(source, target)
    except OSError as error:
        raise ForgeError(
            f"{target} could not be put back: {error.strerror}. Its files are safe in {source}; put "
            'the folder right, then "forge trash" finishes what was begun.'
        ) from error
    return registry.fetch(queries.session(session_id))[0]
