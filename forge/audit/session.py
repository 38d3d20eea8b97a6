"""One session: its owner, its checkpoints, its models, its log, and nothing half written.

A live session changes while it is looked at: what is no longer recorded on a second look is no finding.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from forge import locks
from forge.audit.findings import REPAIR, Audit, Kind
from forge.audit.records import Records
from forge.config import read_frozen
from forge.engine import checkpoint
from forge.errors import CheckpointError, ForgeError
from forge.home import Home, SessionPaths
from forge.registry import (
    LIVE,
    CheckpointRow,
    Error,
    Heartbeat,
    ModelRow,
    SessionRow,
    State,
    fetch,
    open_reader,
    queries,
    schema,
)
from forge.registry.migrate import inspect
from forge.retention import models, steps, tidy
from forge.retention.reconcile import missing_model

_REPAIRS = f'"{REPAIR}" puts it right'
_RESUME = "resume goes on from the checkpoint before it; put this one back from a copy to keep it"
_COPY = "put it back from a copy, or make a new session with the same configuration"
_AGAIN = "put back a backup of the registry, or make a new session with the same configuration"
Reach = dict[str, dict[str, int]]
"""By phase and metric: the last step that a checkpoint says is logged."""


def check_session(
    home: Home, records: Records, session: SessionRow, result: Audit, tick: Callable[[], None]
) -> None:
    """Look at one session; `tick` is called after each file that was read."""
    trashed = session.state is State.TRASHED
    paths = home.trashed(session.id) if trashed else home.session(session.id)
    live = not trashed and locks.is_held(paths.lease)
    if not live and (session.state in LIVE or session.lease is not None):
        what = f"it is {session.state}, and nobody holds its lease"
        result.add(Kind.OWNER, session.name, what, f'"{REPAIR}" marks it as interrupted, then resume it')
    if not paths.root.is_dir():
        return
    for link in paths.links():
        what = "is a symbolic link, which Forge never makes"
        result.add(Kind.FOLDER, _below(home, link), what, "put the file or folder itself in its place")
    if paths.lease.exists() and not paths.lease.is_file():
        what = "is no file, so nobody can hold it and the session cannot go on"
        result.add(
            Kind.OWNER, _below(home, paths.lease), what, "move it away; the next start makes a new one"
        )
    _check_config(home, paths, session, result)
    reach: Reach = {}
    for row in records.checkpoints.get(session.id, []):
        _check_checkpoint(home, paths, session, row, result, reach, live=live)
        result.checkpoints += 1
        result.bytes += row.bytes
        tick()
    for model in records.models.get(session.id, []):
        if missing_model(home, session.id, model.name, model.path) not in records.missing[session.id]:
            _check_model(paths, session, model, result)
        result.models += 1
        result.bytes += model.bytes
        tick()
    says = records.known.get(session.id, tidy.Known())
    _check_phases(session, says, records.models.get(session.id, []), result)
    if not live and not trashed:
        _check_unrecorded(home, paths, says, result)
    _check_log(paths, session, result, reach, coalesced=session.id in records.stalled)


def _check_config(home: Home, paths: SessionPaths, session: SessionRow, result: Audit) -> None:
    """Without its configuration a session cannot go on, and nobody knows what it was."""
    if paths.config.is_symlink():
        return  # told already
    try:
        read_frozen(paths.config)
    except (ForgeError, OSError) as error:
        result.add(Kind.FOLDER, _below(home, paths.config), f"cannot be read: {error}", _COPY)


def _check_checkpoint(
    home: Home, paths: SessionPaths, session: SessionRow, row: CheckpointRow, result: Audit, reach: Reach,
    *, live: bool,
) -> None:  # fmt: skip
    path = paths.root / row.path
    try:
        meta = checkpoint.verify(path)
        found = steps.size(path)
    except (CheckpointError, OSError) as error:
        if not (live and _forgotten(home, row)):
            where = f"{session.name}: {row.phase} step {row.step}"
            result.add(Kind.CHECKPOINT, where, error, _RESUME)
        return
    of = reach.setdefault(row.phase, {})
    for name, step in meta.last_steps.items():
        of[name] = max(step, of.get(name, step))
    _check_bytes(f"{session.name}: {row.phase} step {row.step}", found, row.bytes, result)


def _check_phases(session: SessionRow, says: tidy.Known, models: list[ModelRow], result: Audit) -> None:
    """A phase is completed in the transaction that records its models."""
    for phase in sorted(_completed(says) - {row.phase for row in models}):
        what = "is completed, and no model of it is in the registry"
        result.add(Kind.MODEL, f"{session.name}: {phase}", what, _AGAIN)


def _forgotten(home: Home, row: CheckpointRow) -> bool:
    """Whether a checkpoint was deleted, and its record with it, while we looked."""
    with closing(open_reader(home.registry)) as connection:
        rows = fetch(connection, queries.checkpoints(row.session_id, row.phase))
    return row.step not in {other.step for other in rows}


def _check_model(paths: SessionPaths, session: SessionRow, row: ModelRow, result: Audit) -> None:
    folder, where = paths.root / row.path, f"{session.name}: model {row.name} ({row.path})"
    if not folder.is_dir():
        result.add(Kind.MODEL, where, "its folder is gone, and nothing says so", _REPAIRS)
        return
    try:
        models.verify(folder)
        found = sum(entry.stat().st_size for entry in folder.iterdir())
    except models.UNREADABLE as error:
        result.add(Kind.MODEL, where, error, _COPY)
        return
    _check_bytes(where, found, row.bytes, result)


def _check_bytes(where: str, found: int, recorded: int, result: Audit) -> None:
    if found != recorded:
        result.add(Kind.BYTES, where, f"its files have {found} bytes, its record says {recorded}", _REPAIRS)


def _check_unrecorded(home: Home, paths: SessionPaths, says: tidy.Known, result: Audit) -> None:
    """What is on disk beside what is recorded; nobody is at work there."""
    loose = says.loose(paths)
    for path in [*tidy.garbage(paths), *loose.half]:
        where = path.relative_to(home.root)
        result.add(Kind.LEFTOVER, where, "was left half done", f'"{REPAIR}" deletes it')
    for phase in says.phases:
        for step in steps.finished_steps(paths.checkpoints(phase)):
            if (phase, step) not in says.checkpoints:
                where = _below(home, steps.step_folder(paths.checkpoints(phase), step))
                result.add(Kind.CHECKPOINT, where, "has no record", _REPAIRS)
    for path, twin in loose.twins.items():
        what = f"has no record, and is the same as model {twin}"
        result.add(Kind.MODEL, _below(home, path), what, f'"{REPAIR}" deletes it')
    for model in [whole for found in loose.back.values() for whole in found]:
        result.add(Kind.MODEL, _below(home, model.path), "has no record", _REPAIRS)
    for model in loose.aside:
        what = "has no record, and its phase has other models"
        result.add(Kind.MODEL, _below(home, model.path), what, f'"{REPAIR}" sets it aside')
    for path in loose.foreign:
        what = "has no record, and does not say what it is"
        result.add(Kind.MODEL, _below(home, path), what, "look what it is, and move it away")


def _completed(says: tidy.Known) -> set[str]:
    return {phase for phase, state in says.phases.items() if state is State.COMPLETED}


def _check_log(
    paths: SessionPaths, session: SessionRow, result: Audit, reach: Reach, *, coalesced: bool
) -> None:
    """Each step is logged once, none is missing, and every checkpoint's log is there."""
    if not paths.metrics.exists():
        if any(reach.values()):
            result.add(Kind.STEPS, session.name, "its metrics file is gone", _COPY)
        return
    try:
        inspect(paths.metrics, schema.METRICS)
        with closing(open_reader(paths.metrics)) as connection:
            jumps = fetch(connection, queries.gaps("loss"))
            ends = {(row.phase, row.name): row.last_step for row in fetch(connection, queries.series())}
            result.points += sum(fetch(connection, queries.count_points()))
            beats: list[Heartbeat] = fetch(connection, queries.heartbeat())
    except (Error, ForgeError) as error:
        result.add(Kind.STEPS, f"{session.name}: metrics", error, _COPY)
        return
    if not coalesced and not any(beat.coalesced for beat in beats):
        for jump in jumps:
            if jump.jump is not None or jump.first_step != 1:
                what = f"the step before {jump.jump or jump.first_step} is not in its log"
                result.add(Kind.STEPS, f"{session.name}: {jump.phase}", what, _COPY)
    for phase, of in reach.items():
        for name, step in of.items():
            end = ends.get((phase, name))
            if end is None or end < step:
                what = f"{name} ends at step {end}, and a checkpoint says that it was logged up to {step}"
                result.add(Kind.STEPS, f"{session.name}: {phase}", what, _RESUME)


def _below(home: Home, path: Path) -> Path:
    return path.relative_to(home.root)
