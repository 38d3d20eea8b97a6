"""Finish what a crash left half done, and say what cannot be.

The registry is written first and the folder moved after, except in a purge, where files go first and rows
last. So the row always says which way to go, and doing this twice changes nothing the second time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from forge import locks
from forge.errors import ForgeError
from forge.home import Home, is_id
from forge.registry import Registry, TrashRow, cleanup
from forge.retention import adopt, folders, tidy
from forge.retention.tidy import ACTOR

_PUT_BACK = "put it back from a copy, or move the session to the trash."


@dataclass
class Reconciled:
    """What was found and done, as sentences."""

    repaired: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What a person has to look at; it was left as it is."""


@contextmanager
def alone(home: Home) -> Iterator[None]:
    """No other process moves or deletes sessions of this home while the block lasts.

    Raises:
        ForgeError: another one does.
    """
    with locks.hold(home.cleanup_lock) as mine:
        if not mine:
            raise ForgeError(
                f"another process is cleaning up in {home.root}; nothing was changed. Try again after it."
            )
        yield


def reconcile(home: Home, registry: Registry, now: float | None = None) -> Reconciled:
    """Make sessions, trash and registry agree.

    Raises:
        ForgeError: another process is cleaning up.
        RegistryError: the registry cannot be written.
    """
    if registry.read_only:
        return Reconciled()
    with alone(home):
        return repair(home, registry, time.time() if now is None else now)


def repair(home: Home, registry: Registry, now: float) -> Reconciled:
    """`reconcile` for who is `alone` already."""
    result = Reconciled()
    trashed = {row.session_id: row for row in registry.fetch(cleanup.trash())}
    states = dict(registry.fetch(cleanup.session_states()))
    in_sessions, in_trash = folders.listed(home.sessions), folders.listed(home.trash)
    present = {*in_sessions, *in_trash}
    for row in trashed.values():
        with _telling(result, row.name):
            _settle(home, registry, row, now, result)
    for session_id in in_trash:
        if session_id in states and session_id not in trashed:
            with _telling(result, session_id):
                folders.move(home.trashed(session_id).root, home.session(session_id).root)
                result.repaired.append(f"{session_id} is back among the sessions, as its undo was begun")
    for session_id in sorted(present - states.keys()):
        place = home.session(session_id) if session_id in in_sessions else home.trashed(session_id)
        with _telling(result, session_id):
            if name := adopt.adopt(registry, home, place, now):
                result.repaired.append(f"{_below(home, place.root)} was unknown and is now session {name}")
    for session_id in sorted(states.keys() - present - trashed.keys()):
        with _telling(result, session_id):
            message = missing_folder(home, session_id)
            _tell_missing(registry, session_id, message, now, result)
    _tidy(home, registry, now, result)
    return result


def finish_purge(home: Home, registry: Registry, row: TrashRow, actor: str, now: float) -> int:
    """Delete the files and then the rows of a session whose purge has begun; the bytes given back.

    Raises:
        NotOursError: what lies there is not the session's folder.
        OSError: something cannot be deleted; the next time goes on from there.
    """
    folder, freed = folders.place(home.trash, row.session_id), 0
    if folders.is_there(folder):
        folders.check_remains(folder)
        freed = folders.remove(folder)
    path = _below(home, folder)
    registry.write(
        lambda c: cleanup.end_purge(c, row.session_id, actor=actor, path=path, bytes=freed, now=now)
    )
    return freed


def _settle(home: Home, registry: Registry, row: TrashRow, now: float, result: Reconciled) -> None:
    """Bring the folder of a trashed session to where its row says that it is."""
    session, trash = folders.place(home.sessions, row.session_id), folders.place(home.trash, row.session_id)
    if folders.is_there(session):
        folders.move(session, trash)
        result.repaired.append(f"{row.name} is in the trash, as was begun")
    if row.purging:
        finish_purge(home, registry, row, ACTOR, now)
        result.repaired.append(f"{row.name} is deleted, as was begun")


def missing_folder(home: Home, session_id: str) -> str:
    """What is said of a session whose folder is gone."""
    return f"its folder {home.session(session_id).root} is gone; {_PUT_BACK}"


def missing_model(home: Home, session_id: str, name: str, path: str) -> str:
    """What is said of a model whose folder is gone."""
    return f"its model {name} in {home.session(session_id).root / path} is gone; {_PUT_BACK}"


def _tidy(home: Home, registry: Registry, now: float, result: Reconciled) -> None:
    """Remove what dead owners left half done, and tell what is gone."""
    with _telling(result, str(home.root)):
        result.repaired += tidy.home_files(home, now)
    for session_id, known in tidy.known(registry.fetch).items():
        if not is_id(session_id) or not folders.is_there(home.session(session_id).root):
            continue
        paths = home.session(session_id)
        with _telling(result, session_id):
            folders.check(paths.root)
            folders.check_inside(paths)
            result.repaired += tidy.session_files(registry, paths, session_id, known)
            for name, path in known.models.values():
                if not (paths.root / path).exists():
                    message = missing_model(home, session_id, name, path)
                    _tell_missing(registry, session_id, message, now, result)


def _tell_missing(registry: Registry, session_id: str, message: str, now: float, result: Reconciled) -> None:
    if registry.write(lambda c: cleanup.mark_missing(c, session_id, message, now)):
        result.problems.append(f"{session_id}: {message}")


@contextmanager
def _telling(result: Reconciled, what: str) -> Iterator[None]:
    """One session that cannot be put right must not keep the others from it."""
    try:
        yield
    except OSError as error:
        result.problems.append(f"{what}: {error.filename}: {error.strerror}.")
    except ForgeError as error:
        result.problems.append(f"{what}: {error}")


def _below(home: Home, path: Path) -> str:
    return str(path.relative_to(home.root))
