"""The registry as one process sees it: one writing thread, and a reader for every thread that asks.

Every write is one `BEGIN IMMEDIATE … COMMIT` on the writing thread, so no two threads of this process ever
wait for each other inside SQLite.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from forge.errors import RegistryError
from forge.home import Home, prepare_home
from forge.registry.migrate import migrate, newer_message, version_of
from forge.registry.query import Query, fetch
from forge.registry.schema import REGISTRY
from forge.registry.sqlite import (
    Connection,
    Error,
    OperationalError,
    open_reader,
    open_writer,
    transaction,
)

T = TypeVar("T")


class Registry:
    """An open registry; see `open`."""

    def __init__(self, home: Home, writer: Connection | None, notice: str | None) -> None:
        self.home = home
        self.notice = notice
        self._writer = writer
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forge-registry")
        self._local = threading.local()
        self._readers: list[Connection] = []
        self._lock = threading.Lock()

    @classmethod
    def open(cls, home: Home) -> Registry:
        """Open the registry of a home, creating or migrating it; a newer one opens read-only with a notice.

        Raises:
            HomeError: the home cannot be used.
            RegistryError: the file is damaged or another program's.
        """
        prepare_home(home)
        if home.registry.exists():
            try:
                probe = open_reader(home.registry)
            except Error as error:
                raise RegistryError(f"{home.registry} cannot be opened: {error}. It was left untouched.") from error
            try:
                version = version_of(probe, REGISTRY, home.registry)
            finally:
                probe.close()
            if version > REGISTRY.version:
                return cls(home, None, newer_message(REGISTRY, home.registry, version))
        try:
            writer = open_writer(home.registry, synchronous="FULL")
        except Error as error:
            raise RegistryError(f"{home.registry} cannot be opened for writing: {error}.") from error
        try:
            migrate(writer, REGISTRY, home.registry)
        except BaseException:
            writer.close()
            raise
        return cls(home, writer, None)

    @property
    def read_only(self) -> bool:
        """Whether this program may only look (the file is newer than it)."""
        return self._writer is None

    def write(self, change: Callable[[Connection], T]) -> T:
        """Run `change` in one transaction on the writing thread.

        Raises:
            RegistryError: read-only, or the database stayed locked or could not be written.
        """
        if self._writer is None:
            raise RegistryError(self.notice or "the registry is read-only")
        return self._executor.submit(self._transact, self._writer, change).result()

    def _transact(self, writer: Connection, change: Callable[[Connection], T]) -> T:
        try:
            with transaction(writer):
                return change(writer)
        except OperationalError as error:
            raise RegistryError(
                f"{self.home.registry} could not be written: {error}. "
                "If it is locked, another program holds it: close that program and try again."
            ) from error

    def _reader(self) -> Connection:
        reader = getattr(self._local, "reader", None)
        if reader is None:
            reader = open_reader(self.home.registry)
            self._local.reader = reader
            with self._lock:
                self._readers.append(reader)
        return reader

    def fetch(self, query: Query[T]) -> list[T]:
        """All rows of a query, read on the calling thread."""
        return fetch(self._reader(), query)

    def one(self, query: Query[T]) -> T | None:
        """The first row of a query, or none."""
        rows = self.fetch(query)
        return rows[0] if rows else None

    def data_version(self) -> int:
        """Changes when another connection commits, as this thread's reader sees it."""
        return int(self._reader().execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Fold the log into the file and close every connection; safe to call twice."""
        with self._lock:
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.close()
        self._local = threading.local()
        writer, self._writer = self._writer, None
        if writer is not None:
            self._executor.submit(_close_writer, writer).result()
        self._executor.shutdown()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close_writer(writer: Connection) -> None:
    writer.execute("PRAGMA optimize").fetchall()
    # Busy is an answer here, not an error: the next owner folds the log in.
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    writer.close()
