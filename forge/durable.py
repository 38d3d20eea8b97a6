"""Durable effects on files: every write that must survive a crash goes through here.

A file is complete on disk when `write_file` returns; a name is on disk when its folder was fsynced.
One seam means one place where a test can crash the program between any two effects.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from pathlib import Path


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create `path` with `data` and fsync it. The folder still has to be fsynced for the name to last."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Return when what was written is on the medium, not only in the drive's cache."""
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


def sync_folder(path: Path) -> None:
    """Make the names inside a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a private folder and its missing parents, each name durable."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder atomically and make the new name durable."""
    source.rename(target)
    sync_folder(target.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file as a whole: readers see the old content or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        write_file(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_tree(path: Path) -> None:
    """Delete a file or folder of Forge's, if it is there; a symbolic link is removed, never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    else:
        return
    sync_folder(path.parent)
