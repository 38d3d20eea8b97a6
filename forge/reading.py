"""Files from outside, read with bounds: whatever lies under a name, reading it ends and takes little memory.

A pipe or a device in the place of a file is never waited for, and no file is read that is larger than agreed.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_plain(path: Path, most: int, *, follow: bool = True) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Args:
        path: the file.
        most: bytes.
        follow: whether a symbolic link may lead to it.

    Raises:
        OSError: it cannot be read, is something else, or larger.
    """
    try:
        # Looked at before it is opened: opening a device can already do something.
        _require_plain(path.stat(follow_symlinks=follow), path, most)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _require_plain(found, path, most)
        # One byte more than it should have: shows the endless files of /proc.
        data = file.read(found.st_size + 1)
    if len(data) > most:
        raise _too_large(path, most)
    return data


def is_file(path: Path) -> bool:
    """Whether there is a regular file; false for what can be no name, such as one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _require_plain(found: os.stat_result, path: Path, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if found.st_size > most:
        raise _too_large(path, most)


def _too_large(path: Path, most: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {most} bytes", str(path))
