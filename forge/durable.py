"""Durable effects: every write, fsync, rename, unlink and commit that must survive a crash goes through here.

A file is complete on disk when `write_file` returns; a name is on disk when its folder was fsynced. Each
effect passes `perform`, so a test can end the program, fail the disk or cut the power between any two.
"""

from __future__ import annotations

import fcntl
import os
import stat
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

T = TypeVar("T")
Kind = Literal["create", "write", "sync", "rename", "link", "unlink", "mkdir", "rmdir", "commit"]


class Watcher(Protocol):
    """Stands before every effect; it calls `do`, or does not, or raises."""

    def __call__(self, kind: Kind, do: Callable[[], T], *subject: Any) -> T: ...


watcher: Watcher | None = None
"""Set by tests only."""


def perform(kind: Kind, do: Callable[[], T], *subject: Any) -> T:
    """Do one effect. `subject`: the paths it is about; the descriptor of a write or sync; the connection."""
    return do() if watcher is None else watcher(kind, do, *subject)


# --- files ----------------------------------------------------------------------------------------------


def create(path: Path, *, exclusive: bool = False, mode: int = 0o600) -> int:
    """Open an empty file for writing and reading; `exclusive` refuses one that is there."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if exclusive else os.O_TRUNC)
    return perform("create", lambda: os.open(path, flags, mode), path)


def write(descriptor: int, data: bytes | memoryview) -> None:
    """Append all of `data`."""
    view = memoryview(data)
    while view:
        view = view[perform("write", partial(os.write, descriptor, view), descriptor) :]


def sync(descriptor: int) -> None:
    """Return when what was written is on the medium, not only in the drive's cache."""
    perform("sync", lambda: _sync(descriptor), descriptor)


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create `path` with `data` and fsync it. The folder still has to be fsynced for the name to last."""
    descriptor = create(path, mode=mode)
    try:
        write(descriptor, data)
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make durable what somebody else wrote into a file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file as a whole: readers see the old content or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        write_file(temporary, data)
        perform("rename", lambda: temporary.replace(path), temporary, path)
    except BaseException:
        discard_file(temporary)
        raise
    sync_folder(path.parent)


def discard_file(path: Path) -> None:
    """Delete a file, if it is there; a power cut may bring it back."""
    if os.path.lexists(path):
        perform("unlink", lambda: path.unlink(missing_ok=True), path)


# --- names ----------------------------------------------------------------------------------------------


def sync_folder(path: Path) -> None:
    """Make the names inside a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a private folder and its missing parents, each name durable.

    Raises:
        FileExistsError: something else has the name.
    """
    if not path.parent.exists():
        make_folder(path.parent)
    make_folders(path)


def make_folders(*paths: Path) -> None:
    """Create private folders in a folder that is there, their names durable.

    Raises:
        FileExistsError: something else has the name.
    """
    missing = [path for path in paths if not path.is_dir()]
    for path in missing:
        make_scratch(path)
    if missing:
        sync_folder(missing[0].parent)


def make_scratch(path: Path) -> None:
    """Create a private folder that gets another name once it is filled: this one need not last."""
    perform("mkdir", lambda: path.mkdir(mode=0o700, exist_ok=True), path)


def settle(*folders: Path) -> None:
    """Make durable the names that a killed process left; who finds a name does not sync it again."""
    for folder in folders:
        if folder.is_dir():
            sync_folder(folder)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder atomically, durably: the new name first, then that the old one is gone."""
    perform("rename", lambda: source.rename(target), source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, durably.

    Raises:
        FileExistsError: the name is taken.
    """
    perform("link", lambda: os.link(source, target), source, target)
    sync_folder(target.parent)


# --- deletion -------------------------------------------------------------------------------------------


def remove_tree(path: Path) -> None:
    """Delete a file or folder of Forge's for good, if it is there."""
    if discard_tree(path):
        sync_folder(path.parent)


def retire_tree(path: Path, name: str) -> None:
    """Delete what nobody may ever see half deleted: it loses its name first, and then its contents.

    `name` is one that every reader takes for garbage; a power cut may bring it back under that.
    """
    garbage = path.with_name(name)
    move(path, garbage)
    discard_tree(garbage)


def discard_tree(path: Path) -> bool:
    """Delete a file or folder, if it is there; a power cut may bring all or parts of it back.

    A symbolic link is removed, never followed. Returns whether there was anything.
    """
    if not os.path.lexists(path):
        return False
    if path.is_symlink() or not path.is_dir():
        discard_file(path)
        return True
    # By descriptor, so that a folder that is replaced by a link meanwhile is not followed either.
    for place, folders, files, descriptor in os.fwalk(path, topdown=False, onerror=_refuse):
        for name in (*files, *folders):
            _remove_entry(Path(place, name), descriptor)
    perform("rmdir", path.rmdir, path)
    return True


def _remove_entry(path: Path, folder: int) -> None:
    try:
        found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            perform("rmdir", lambda: os.rmdir(path.name, dir_fd=folder), path)
        else:
            perform("unlink", lambda: os.unlink(path.name, dir_fd=folder), path)
    except OSError as error:
        # The kernel was given the last part of the path only; a person needs all of it.
        error.filename = str(path)
        raise


def _refuse(error: OSError) -> None:
    # `os.fwalk` passes over what it cannot read; then its folder would not be empty.
    raise error


def _sync(descriptor: int) -> None:
    # Named only where fsync itself stops at the drive: macOS.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(descriptor)
        return
    try:
        fcntl.fcntl(descriptor, full)
    except OSError:
        # Not every file system there knows it.
        os.fsync(descriptor)
