"""What a dead owner left half done in the folder of its session, and in the home: removed, and said.

Only where nobody is at work: a session's folder while its lease is ours, the home's own files while no other
process makes or cleans up anything. A second time finds nothing.
"""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from forge import durable, locks
from forge.home import MARKER, SCRATCH, Home, SessionPaths, is_id
from forge.registry import Connection, Query, Registry, State, cleanup
from forge.registry.migrate import leftovers
from forge.retention import orphans, restore, steps
from forge.retention.orphans import Loose

T = TypeVar("T")
ACTOR = "reconcile"
SETTLED_SECONDS = 3600.0
"""What is younger may belong to a session that another process is just making."""
_HALF_REPLACED = re.compile(r"\.settings\.yaml\.tmp-[0-9a-f]{32}")
_HALF_CACHED = re.compile(r"\.[0-9a-f]{32}\.tmp-[0-9a-f]{8}")


@dataclass
class Known:
    """What the registry says of a session's files."""

    phases: dict[str, State] = field(default_factory=dict)
    checkpoints: set[tuple[str, int]] = field(default_factory=set)
    """Phase and step."""
    models: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By id: name, and path below the session's folder."""

    def loose(self, paths: SessionPaths) -> Loose:
        """The models of the session that have no record."""
        return orphans.look(paths, {model: name for model, (name, _) in self.models.items()}, self.phases)


class Fetch(Protocol):
    """All rows of a query, from a registry or one connection."""

    def __call__(self, query: Query[T], /) -> list[T]: ...


def known(fetch: Fetch, session_id: str | None = None) -> dict[str, Known]:
    """What the registry says of one session's files, or of all: three queries, however many there are."""
    found: dict[str, Known] = {}
    for session, phase, state in fetch(cleanup.recorded_phases(session_id)):
        found.setdefault(session, Known()).phases[phase] = state
    for session, phase, step in fetch(cleanup.recorded_checkpoints(session_id)):
        found.setdefault(session, Known()).checkpoints.add((phase, step))
    for session, model, name, path in fetch(cleanup.recorded_models(session_id)):
        found.setdefault(session, Known()).models[model] = (name, path)
    return found


def session_files(registry: Registry, paths: SessionPaths, session_id: str, says: Known) -> list[str]:
    """Remove what was given up half done, and match the records of checkpoints and models; what was done."""
    if not garbage(paths) and not says.loose(paths).to_do and not _apart(paths, says):
        return []
    with locks.hold(paths.lease) as mine:
        if not mine:
            return []
        # Asked again: whoever had the lease until now may have done all of it.
        says = known(registry.fetch, session_id).get(session_id, Known())
        done = _discard(registry, paths)
        if _apart(paths, says):
            gone = registry.write(lambda c: _match(c, paths, session_id, says.phases))
            done.append(f"the records of the checkpoints of {paths.root.name} are those of its files again")
            done += [
                f"checkpoint {which} of {paths.root.name} is gone, and now its record is too"
                for which in gone
            ]
        return done + restore.put_right(registry.write, paths, says.loose(paths), actor=ACTOR)


def _discard(registry: Registry, paths: SessionPaths) -> list[str]:
    left, now = garbage(paths), time.time()
    if left:
        registry.write(lambda c: _note(c, paths, left, now))
    for path in left:
        durable.discard_tree(path)
    return [f"{path.relative_to(paths.root.parent)} was half done and is deleted" for path in left]


def home_files(home: Home, now: float) -> list[str]:
    """Remove half-made databases, settings, sessions and caches; for who is alone in the home."""
    left = leftovers(home.registry) + half_replaced(home, now) + half_made(home, now)
    for path in left:
        durable.discard_tree(path)
    for path in half_cached(home.cache):
        with locks.hold(cache_lock(home, path)) as mine:
            if mine:
                durable.discard_tree(path)
                left.append(path)
    return [f"{path.relative_to(home.root)} was half done and is deleted" for path in left]


def garbage(paths: SessionPaths) -> list[Path]:
    """What beside models was given up half done in a session's folder, if nobody is at work there."""
    left = leftovers(paths.metrics)
    checkpoints = paths.root / "checkpoints"
    if checkpoints.is_dir() and not checkpoints.is_symlink():
        left += [path for folder in sorted(checkpoints.iterdir()) for path in steps.leftovers(folder)]
    return left


def cache_lock(home: Home, path: Path) -> Path:
    """What its writer holds as long as it is at work on a half-written text."""
    return home.cache / f"{path.name[1:].partition('.')[0]}.lock"


def half_made(home: Home, now: float) -> list[Path]:
    """Folders of sessions that were given up while they were made; a young one may be at it still."""
    if home.sessions.is_symlink():
        return []
    return sorted(
        entry
        for entry in home.sessions.glob(f"*{SCRATCH}")
        if is_id(entry.name.removesuffix(SCRATCH))
        and entry.is_dir()
        and not entry.is_symlink()
        and now - entry.lstat().st_mtime >= SETTLED_SECONDS
        # A person may have named a copy so; what is in it is not ours to delete.
        and {below.name for below in entry.iterdir()} <= {MARKER}
    )


def half_replaced(home: Home, now: float) -> list[Path]:
    """Settings that were given up half written; young ones may be on their way still."""
    return [path for path in strays(home.root, now) if _HALF_REPLACED.fullmatch(path.name)]


def strays(folder: Path, now: float) -> list[Path]:
    """Files that lie in a folder under a name for what is being written, and are too old for that."""
    old = []
    for entry in folder.glob(".*.tmp-*"):
        with suppress(FileNotFoundError):  # it has its own name by now
            found = entry.lstat()
            if not stat.S_ISDIR(found.st_mode) and now - found.st_mtime >= SETTLED_SECONDS:
                old.append(entry)
    return sorted(old)


def half_cached(cache: Path) -> list[Path]:
    """Prepared texts that were given up half written, or are being written; none behind a link."""
    if cache.is_symlink() or not cache.is_dir():
        return []
    return sorted(entry for entry in cache.iterdir() if _HALF_CACHED.fullmatch(entry.name))


def _note(c: Connection, paths: SessionPaths, left: list[Path], now: float) -> None:
    for path in left:
        restore.note_deletion(c, paths, path, "was left half done", actor=ACTOR, now=now)


def _apart(paths: SessionPaths, says: Known) -> bool:
    present = {
        (phase, step) for phase in says.phases for step in steps.finished_steps(paths.checkpoints(phase))
    }
    return present != says.checkpoints


def _match(c: Connection, paths: SessionPaths, session_id: str, phases: Mapping[str, State]) -> list[str]:
    gone = []
    for phase in phases:
        lost = steps.match_records(
            c, session_id, phase, paths.root, paths.checkpoints(phase), actor=ACTOR, why="was gone"
        )
        gone += [f"{phase} {step}" for step in lost]
    return gone
