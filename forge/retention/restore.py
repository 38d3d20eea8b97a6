"""Make the registry say of a session what its folder holds, where the folder knows more.

Rows first, in one transaction with their records in `audit`; files that are too many are moved or deleted
after it, so that a crash in between leaves what the next look finds again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge.home import SessionPaths
from forge.registry import RESUMABLE, Connection, State, cleanup, edits, fetch
from forge.retention import folders, orphans
from forge.retention.history import History
from forge.retention.orphans import Loose, Whole

Write = Callable[[Callable[[Connection], Any]], Any]
"""Runs a change in one transaction."""


def put_right(write: Write, paths: SessionPaths, loose: Loose, *, actor: str) -> list[str]:
    """Take models back into the registry, and clear away those that are too many; what was done.

    For who holds the session's lease.
    """
    if not loose.to_do:
        return []
    session_id, now = paths.root.name, time.time()
    spare = [(path, f"was the same as the recorded model {name}") for path, name in loose.twins.items()]
    left = [*((path, "was left half done") for path in loose.half), *spare]

    def change(c: Connection) -> None:
        take_back(c, session_id, loose, actor=actor, now=now)
        for path, why in left:
            note_deletion(c, paths, path, why, actor=actor, now=now)
        for model in loose.aside:
            _note_aside(c, session_id, model, actor=actor, now=now)

    write(change)
    for path, _ in left:
        orphans.remove(path)
    for model in loose.aside:
        orphans.set_aside(model.path)
    name = paths.root.name
    return [
        *(f"{phase} of {name} is completed: its models are recorded again" for phase in loose.back),
        *(f"{path.relative_to(paths.root.parent)} {why} and is deleted" for path, why in left),
        *(f"model {m.row.name} of {name} was not recorded and is set aside" for m in loose.aside),
    ]


def take_back(c: Connection, session_id: str, loose: Loose, *, actor: str, now: float) -> None:
    """Record models that are not, and their phases as completed; the session too, where all of them are."""
    told = loose.history
    for phase, found in loose.back.items():
        states = {name: state for _, name, state in _phases(c, session_id)}
        for model in found:
            edits.add_model(c, model.row, model.parents)
            cleanup.add_audit(c, actor=actor, action="adopt", now=now, session_id=session_id,
                              path=f"sessions/{session_id}/{model.row.path}", bytes=model.row.bytes,
                              detail=f"model {model.row.name} of {phase} was not recorded")  # fmt: skip
        if states[phase] is not State.COMPLETED:
            _complete(c, session_id, phase, found, told)
        message = f"{phase} is completed: its models were found without a record, and have one again"
        edits.add_event(c, session_id, kind="adopted", message=message, now=now, phase=phase, level="warning")
    if loose.back:
        _end(c, session_id, told, now)


def note_deletion(
    c: Connection, paths: SessionPaths, path: Path, why: str, *, actor: str, now: float
) -> None:
    """Record that a part of a session is about to be deleted: what is deleted has its record in any case."""
    size = folders.measure(path).bytes if path.is_dir() else path.lstat().st_size
    cleanup.add_deletion(c, paths.root.name, f"{path.name} {why}", actor=actor, action="tidy", now=now,
                         path=str(path.relative_to(paths.root)), bytes=size)  # fmt: skip


def _complete(c: Connection, session_id: str, phase: str, found: list[Whole], told: History) -> None:
    made = max(model.row.created_at for model in found)
    report = told.reports.get(phase)
    begun, ended = told.begun.get(phase, made), report.at if report else made
    edits.set_phase_state(c, session_id, phase, State.RUNNING, now=begun)
    edits.set_phase_state(
        c, session_id, phase, State.COMPLETED, now=ended, report=report.contents if report else None
    )
    edits.enter_phase(c, session_id, phase, ended)


def _end(c: Connection, session_id: str, told: History, now: float) -> None:
    """A session whose phases are all completed is; one that somebody runs ends by itself."""
    state = edits.get_session(c, session_id).state
    if state in RESUMABLE and all(of is State.COMPLETED for *_, of in _phases(c, session_id)):
        ended = told.ended_at if told.end is State.COMPLETED and told.ended_at is not None else now
        for after in (State.RUNNING, State.COMPLETED):
            edits.set_session_state(c, session_id, after, now=ended)


def _note_aside(c: Connection, session_id: str, model: Whole, *, actor: str, now: float) -> None:
    to = f"{orphans.ASIDE}{model.path.name}"
    detail = f"model {model.row.name} of {model.row.phase} was not recorded, and its phase has others"
    cleanup.add_audit(c, actor=actor, action="aside", now=now, session_id=session_id,
                      path=f"sessions/{session_id}/models/{to}", bytes=model.row.bytes,
                      detail=detail)  # fmt: skip
    edits.add_event(c, session_id, kind="aside", message=f"{detail}; it is kept as models/{to}", now=now,
                    phase=model.row.phase, level="warning")  # fmt: skip


def _phases(c: Connection, session_id: str) -> list[tuple[str, str, State]]:
    return fetch(c, cleanup.recorded_phases(session_id))
