"""Session folders as cleanup may touch them: recognised, measured, moved and deleted.

A folder is Forge's when it lies directly in `sessions/` or `trash/`, is named by an id that Forge made, is no
symbolic link or mount, and carries its own `session.yaml`. Everything else is refused, whatever the registry
says.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from forge import durable
from forge.errors import ForgeError
from forge.home import MARKER, SessionPaths, is_id


class NotOursError(ForgeError):
    """A folder that cleanup must not touch; the message says why."""


@dataclass(frozen=True)
class Size:
    """What a folder takes; a file with several names counts once."""

    bytes: int
    freed: int
    """Bytes that its deletion gives back: files that have a name elsewhere too give nothing."""


def place(parent: Path, session_id: str) -> Path:
    """Where a session lies in `sessions/` or `trash/`, whether it is there or not.

    Raises:
        NotOursError: the id is not one that Forge makes, so it may lead anywhere.
    """
    if not is_id(session_id):
        raise NotOursError(f"{session_id!r} is not an id that Forge makes.")
    return parent / session_id


def listed(parent: Path) -> list[str]:
    """Names in `sessions/` or `trash/` that are ids of sessions, in order of creation."""
    with os.scandir(parent) as entries:
        return sorted(entry.name for entry in entries if is_id(entry.name))


def is_there(folder: Path) -> bool:
    """Whether anything has this name, a dangling link included."""
    return os.path.lexists(folder)


def check(folder: Path, *, marked: bool = True) -> None:
    """Return silently when this is a session's folder; `marked` asks for `session.yaml` too.

    Raises:
        NotOursError: it is not, or it cannot be told.
        FileNotFoundError: there is nothing of this name.
    """
    if not is_id(folder.name):
        raise NotOursError(f"{folder.name!r} is not an id that Forge makes.")
    parent, found = folder.parent.lstat(), folder.lstat()
    if not stat.S_ISDIR(parent.st_mode):
        raise NotOursError(f"{folder.parent} is not a folder of the home but leads elsewhere.")
    if not stat.S_ISDIR(found.st_mode):
        raise NotOursError(f"{folder} is not a folder but a link or a file.")
    if found.st_dev != parent.st_dev:
        raise NotOursError(f"{folder} is another file system, mounted there.")
    if not marked:
        return
    try:
        marker = (folder / MARKER).lstat()
    except FileNotFoundError as error:
        raise NotOursError(f"{folder} has no {MARKER}, so nothing says that it is a session's.") from error
    if not stat.S_ISREG(marker.st_mode):
        raise NotOursError(f"{folder / MARKER} is not a plain file.")


def check_inside(paths: SessionPaths) -> None:
    """Return silently when nothing in a session's folder leads out of it where Forge writes and deletes.

    Raises:
        NotOursError: something does; the message says what to do.
    """
    try:
        links = paths.links()
    except OSError as error:
        raise NotOursError(f"{error.filename} cannot be looked at: {error.strerror}.") from error
    if links:
        raise NotOursError(
            f"{links[0]} is a symbolic link, which Forge never makes: nothing is written, moved or deleted "
            "through it. Put the file or folder itself in its place."
        )


def check_remains(folder: Path) -> None:
    """`check` of a folder whose deletion has begun: once it is empty, its marker may be gone too.

    Raises:
        NotOursError: it is not a session's folder.
    """
    check(folder, marked=bool(_entries(folder)))


def measure(folder: Path) -> Size:
    """What a folder takes, without following links.

    Raises:
        NotOursError: another file system is mounted inside.
    """
    device = folder.lstat().st_dev
    names: dict[int, tuple[int, int]] = {}  # inode: its size, and the names of it that lie elsewhere
    waiting = [folder]
    while waiting:
        for entry in _entries(waiting.pop()):
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # whoever runs it deletes old checkpoints meanwhile
            if found.st_dev != device:
                raise NotOursError(f"{entry.path} is another file system, mounted there.")
            if stat.S_ISDIR(found.st_mode):
                waiting.append(Path(entry.path))
                continue
            _, elsewhere = names.get(found.st_ino, (0, found.st_nlink))
            names[found.st_ino] = (found.st_size, elsewhere - 1)
    total = sum(size for size, _ in names.values())
    return Size(total, sum(size for size, elsewhere in names.values() if elsewhere <= 0))


def has_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint lies there, known to the registry or not."""
    return any(folder.glob("checkpoints/*/step-*/manifest.json"))


def check_move(source: Path, target: Path) -> None:
    """Return silently when a session's folder can be renamed to `target`.

    Raises:
        NotOursError: it is not a session's folder, or something is in the way.
    """
    check(source)
    if is_there(target):
        raise NotOursError(f"{target} is there already; move one of the two folders away by hand.")
    into = target.parent.lstat()
    if not stat.S_ISDIR(into.st_mode):
        raise NotOursError(f"{target.parent} is not a folder of the home but leads elsewhere.")
    if into.st_dev != source.lstat().st_dev:
        raise NotOursError(f"{target.parent} is on another file system than {source.parent}.")


def move(source: Path, target: Path) -> None:
    """Rename a session's folder between `sessions/` and `trash/`, durably on both sides."""
    check_move(source, target)
    durable.move(source, target)


def remove(folder: Path) -> int:
    """Delete a checked folder; the bytes that this gave back.

    The marker goes last, so that what a crash leaves can still be recognised and deleted.
    """
    freed = measure(folder).freed
    for name in sorted(entry.name for entry in _entries(folder) if entry.name != MARKER):
        durable.discard_tree(folder / name)
    # The disk may carry out in any order what lies between two syncs.
    durable.sync_folder(folder)
    durable.remove_tree(folder)
    return freed


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
