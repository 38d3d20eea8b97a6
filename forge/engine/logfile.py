"""The session's log on disk: one file that grows, and a few full ones before it; and who reads them in order.

A full file gets another name and is never written again, so a reader that keeps it open misses nothing.
`log.jsonl` is the newest part, `log.jsonl.1` the one before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from forge import durable

MOST_BYTES = 8 << 20
"""Size from which on a part is full."""
FULL_PARTS = 3
"""Full parts that are kept; an older one is lost."""
LONGEST_LINE = 1 << 20
"""Bytes; what is longer is read in pieces."""
_STANDARD = (1, 2)


def parts(log: Path) -> list[Path]:
    """The parts that are there, oldest first."""
    return [path for number in range(FULL_PARTS, -1, -1) if (path := _part(log, number)).is_file()]


def rotate(log: Path) -> None:
    """Begin a new part; output that this process sends into the old one goes on in the new one.

    Raises:
        OSError: the disk refuses; whatever name the parts have now, they are read in the right order.
    """
    full = log.stat()
    for number in range(FULL_PARTS, 0, -1):
        source = _part(log, number - 1)
        if source.exists():
            durable.move(source, _part(log, number))
    fresh = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for descriptor in _STANDARD:
            if _leads_to(descriptor, full):
                os.dup2(fresh, descriptor)
    finally:
        os.close(fresh)


class LogReader:
    """Reads a log line by line from its oldest part on, and goes on when there is more."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file: BinaryIO | None = None

    def lines(self) -> Iterator[bytes]:
        """The complete lines since the last call; half a line is left for the next time."""
        while self._file is not None or self._open_next():
            assert self._file is not None
            # Asked before reading: what was written until it was full is read all the same.
            newer = self._next()
            yield from self._read(self._file, whole=newer is not None)
            if newer is None:
                return
            self._file.close()
            self._file = None
            if not self._open(newer):
                return

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, file: BinaryIO, *, whole: bool) -> Iterator[bytes]:
        while (line := file.readline(LONGEST_LINE)).endswith(b"\n") or len(line) == LONGEST_LINE:
            yield line
        if line and whole:
            yield line  # the disk took no more of it, and never will
        elif line:
            file.seek(-len(line), os.SEEK_CUR)

    def _open_next(self) -> bool:
        there = parts(self._log)
        return bool(there) and self._open(there[0])

    def _open(self, path: Path) -> bool:
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            return False  # it has just got another name: the next call finds it
        return True

    def _next(self) -> Path | None:
        """The part after the open one; none while that is the newest."""
        assert self._file is not None
        mine, there = os.fstat(self._file.fileno()), parts(self._log)
        for place, path in enumerate(there):
            if _is(path, mine):
                return there[place + 1] if place + 1 < len(there) else None
        # It was so old that it is lost.
        return there[0] if there else None


def _part(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}") if number else log


def _leads_to(descriptor: int, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file)
    except OSError:
        return False  # it is closed


def _is(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except FileNotFoundError:
        return False
