"""Keeps write-ahead logs small, and names who keeps them from being emptied.

A reader of another program that leaves a cursor open pins the log: every commit makes it longer, up to the
end of the disk. Forge's own readers cannot do that. Nothing here waits for such a reader, or disturbs it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import psutil

from forge import units
from forge.registry import Error, sqlite

LIMIT_BYTES = sqlite.JOURNAL_SIZE_LIMIT
CHECK_SECONDS = 2.0


class WalWatch:
    """Looks at the logs of some databases now and then; for one thread, between its own transactions."""

    def __init__(
        self,
        databases: Sequence[Path],
        tell: Callable[[str, str], None],
        *,
        limit: int = LIMIT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch `databases`; `tell` hears a message and a level when one gets stuck, and when it is free."""
        self._databases = databases
        self._tell = tell
        self._limit = limit
        self._clock = clock
        self._next = clock()
        self._stuck: set[Path] = set()

    def check(self) -> None:
        """Empty the logs that are over the limit; does nothing most of the time."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + CHECK_SECONDS
        for database in self._databases:
            self._look_at(database)

    def _look_at(self, database: Path) -> None:
        size = wal_bytes(database)
        if size > self._limit and not _empty(database) and database not in self._stuck:
            self._stuck.add(database)
            self._tell(
                f"{_who(database)} keeps the write-ahead log of {database.name} from being emptied "
                f"({units.size(size)} now); it grows until that reader ends",
                "warning",
            )
        if database in self._stuck and (size := wal_bytes(database)) <= self._limit:
            self._stuck.discard(database)
            self._tell(f"the write-ahead log of {database.name} is at {units.size(size)} again", "info")


def wal_bytes(database: Path) -> int:
    """Size of a database's write-ahead log; 0 without one."""
    # By stat alone: to open a live database file drops SQLite's locks on it.
    try:
        return database.with_name(database.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _empty(database: Path) -> bool:
    try:
        with closing(sqlite.open_writer(database, synchronous="FULL", wal_autocheckpoint=0)) as connection:
            # Once: while it waits for readers no other writer can commit.
            return sqlite.truncate_wal(connection, attempts=1)
    except Error:
        # Whatever is the matter with the file, those who write to it say so.
        return False


def _who(database: Path) -> str:
    """The other processes that have a database open, as far as this user may know."""
    path, others = os.path.realpath(database), []
    for process in psutil.process_iter(["pid", "name", "open_files"]):
        files = process.info["open_files"] or ()
        if process.pid != os.getpid() and any(each.path == path for each in files):
            others.append(f"{process.info['name']} (pid {process.pid})")
    return " or ".join(others) if others else "another program"
