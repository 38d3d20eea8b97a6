"""Locks that say "somebody is at work here": a `flock`, which the kernel drops with its holder.

Nothing is ever read from a lock file or written to it here: held or free is all that counts. A session's
folder itself is what whoever reads its models locks, shared; its `lease` is whoever runs it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from forge.home import MARKER

_ATTEMPTS = 5
_RETRY_SECONDS = 0.02


@contextmanager
def hold(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Hold a lock while the block lasts; the value is false where somebody else is in the way.

    Args:
        path: a folder, or a file that is made where there is none.
        shared: others may hold it shared too.

    Raises:
        OSError: the file cannot be made or opened; a symbolic link in its place is not followed.
    """
    descriptor = _lock(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Keep cleanup from taking the session whose model is read, while the block lasts.

    A path that lies in no session needs nothing. Where cleanup was quicker, there is nothing to read.

    Raises:
        OSError: the session's folder cannot be opened.
    """
    with ExitStack() as held:
        for folder in Path(os.path.realpath(path)).parents:
            if (folder / MARKER).is_file():
                held.enter_context(hold(folder, shared=True))
                break
        yield


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock alone now, this process included.

    Raises:
        OSError: it cannot be looked at; a symbolic link in its place is not followed.
    """
    return _busy(path, fcntl.LOCK_SH)


def is_used(path: Path) -> bool:
    """Whether anybody holds the lock now, alone or shared."""
    return _busy(path, fcntl.LOCK_EX)


def _lock(path: Path, kind: int) -> int | None:
    flags = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # Whoever only looks holds the lock for a moment too.
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_RETRY_SECONDS)
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _busy(path: Path, kind: int) -> bool:
    try:
        # O_NONBLOCK: a named pipe in its place would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
