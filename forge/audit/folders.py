"""Folders against records: each session's folder where its record says, and nothing half done in the home."""

from __future__ import annotations

from forge import locks
from forge.audit.findings import REPAIR, Audit, Kind
from forge.audit.records import Records
from forge.config import load_settings
from forge.errors import ConfigError
from forge.home import MARKER, Home, SessionPaths, is_id
from forge.registry import State
from forge.registry.migrate import leftovers
from forge.retention import folders
from forge.retention.reconcile import missing_folder
from forge.retention.tidy import (
    SETTLED_SECONDS,
    cache_lock,
    half_cached,
    half_made,
    half_replaced,
    strays,
)

_FINISH = f'"{REPAIR}" finishes what was begun'


def check_folders(home: Home, records: Records, now: float, result: Audit) -> None:
    """Compare `sessions/` and `trash/` with the records."""
    busy = _cleaning(home)
    here, there = (set(folders.listed(p)) if p.is_dir() else set() for p in (home.sessions, home.trash))
    for session in records.sessions:
        trashed, row = session.state is State.TRASHED, records.trash.get(session.id)
        if trashed != (row is not None):
            what = f"{session.name} is {session.state}, and the trash has {'a' if row else 'no'} record of it"
            result.add(Kind.REGISTRY, home.registry.name, what, "put back a backup of the registry")
        if not is_id(session.id):
            what = f"{session.name} has the id {session.id!r}, which Forge never makes"
            result.add(Kind.REGISTRY, home.registry.name, what, "put back a backup of the registry")
            continue
        if busy:
            continue
        if row is not None and row.purging:
            result.add(Kind.FOLDER, session.name, "its deletion was begun and not finished", _FINISH)
            continue
        where, wrong = (there, here) if trashed else (here, there)
        if session.id in wrong:
            place = "sessions" if trashed else "trash"
            result.add(Kind.FOLDER, f"{place}/{session.id}", f"{session.name} is not to be there", _FINISH)
        elif session.id not in where and missing_folder(home, session.id) not in records.missing[session.id]:
            result.add(Kind.FOLDER, session.name, "its folder is gone, and nothing says so", _FINISH)
    recorded = {session.id for session in records.sessions}
    for session_id in sorted(here - recorded):
        _check_unknown(home.session(session_id), now, result)
    for session_id in sorted(there - recorded):
        _check_unknown(home.trashed(session_id), now, result)


def check_leftovers(home: Home, now: float, result: Audit) -> None:
    """Half-made databases, settings and caches whose maker is gone."""
    half = half_replaced(home, now)
    left = [] if _cleaning(home) else leftovers(home.registry) + half_made(home, now) + half
    left += [path for path in half_cached(home.cache) if not locks.is_used(cache_lock(home, path))]
    for path in left:
        result.add(Kind.LEFTOVER, path.relative_to(home.root), "was left half done", f'"{REPAIR}" deletes it')
    here = (home.session(i).root for i in folders.listed(home.sessions)) if home.sessions.is_dir() else ()
    for path in [stray for place in (home.root, home.sessions, *here) for stray in strays(place, now)]:
        if path not in half:
            where = path.relative_to(home.root)
            result.add(Kind.LEFTOVER, where, "is not of Forge's making", "look what it is, and move it away")


def check_settings(home: Home, result: Audit) -> None:
    """Without its settings a home is not cleaned by itself, and nobody is told of an end."""
    try:
        load_settings(home.settings)
    except (ConfigError, OSError) as error:
        result.add(Kind.SETTINGS, home.settings.name, error, "put it right, or move it away for the defaults")


def _check_unknown(paths: SessionPaths, now: float, result: Audit) -> None:
    where = f"{paths.root.parent.name}/{paths.root.name}"
    try:
        age = now - paths.config.lstat().st_mtime
    except OSError:
        result.add(Kind.FOLDER, where, f"no session is recorded for it, and it has no {MARKER}",
                   "look what it is, and move it away")  # fmt: skip
        return
    if age >= SETTLED_SECONDS:
        result.add(Kind.FOLDER, where, "no session is recorded for it", f'"{REPAIR}" gives it its record')


def _cleaning(home: Home) -> bool:
    """Whether some process moves or deletes sessions, or makes a registry, at this moment."""
    return locks.is_used(home.cleanup_lock)
