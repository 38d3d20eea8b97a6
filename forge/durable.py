"""Durable effects on files: every write that must survive a crash goes through here.

A file is complete on disk when `write_file` returns; a name is on disk when its folder was fsynced.
One seam means one place where a test can crash the program between any two effects.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create `path` with `data` and fsync it. The folder still has to be fsynced for the name to last."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names inside a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
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
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    write_file(temporary, data)
    temporary.replace(path)
    sync_folder(path.parent)


def remove_tree(path: Path) -> None:
    """Delete a folder of Forge's; a symbolic link is removed, never followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
    sync_folder(path.parent)
