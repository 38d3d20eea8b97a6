"""The registry of one home: one writing thread, one reader per thread that asks.

A connection belongs to the process that opened it; after a fork every call is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from forge.errors import RegistryError
from forge.home import Home, prepare_home
from forge.registry import schema, sqlite
from forge.registry.migrate import ensure
from forge.registry.query import Query, T, fetch
from forge.registry.sqlite import Connection, one_value, transaction

WAL_AUTOCHECKPOINT = 1000
_WRITER_THREAD = "forge-registry"


class Registry:
    """Sessions and all that belongs to them; open it with `Registry.open`."""

    def __init__(self, path: Path, *, read_only: bool = False, notice: str | None = None) -> None:
        self.path = path
        self.read_only = read_only
        self.notice = notice
        """What a person should know about how it was opened; none mostly."""
        self._pid = os.getpid()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=_WRITER_THREAD)
        self._writer: Connection | None = None
        self._readers: dict[threading.Thread, Connection] = {}
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, home: Home) -> Registry:
        """Prepare the home and open its registry; a newer one is opened read-only, with a notice.

        Raises:
            HomeError: the home cannot be used.
            RegistryError: the file is damaged, or not Forge's; it is untouched.
        """
        prepare_home(home)
        opening = ensure(home.registry, schema.REGISTRY, home.cleanup_lock)
        return cls(home.registry, read_only=opening.read_only, notice=opening.notice)

    def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in one transaction on the writing thread and return its result.

        Raises:
            RegistryError: read-only, locked by another process for too long, or the disk refused.
        """
        return self._on_writer(lambda writer: self._transact(writer, fn))

    def compact(self) -> int:
        """Give the room of deleted rows back to the file system, and empty the WAL; the bytes regained.

        Raises:
            RegistryError: read-only, or locked by another process for too long.
        """
        return self._on_writer(self._compact)

    def fetch(self, query: Query[T]) -> list[T]:
        """All rows of a query."""
        try:
            return fetch(self._reader(), query)
        except sqlite.Error as error:
            raise self._explain(error) from error

    def one(self, query: Query[T]) -> T | None:
        """The first row of a query, or none."""
        rows = self.fetch(query)
        return rows[0] if rows else None

    def data_version(self) -> int:
        """A number that changes with every commit of anyone; compare only within one thread."""
        try:
            return int(one_value(self._reader(), "PRAGMA data_version"))
        except sqlite.Error as error:
            raise self._explain(error) from error

    def close(self) -> None:
        """Close all connections and fold the WAL into the file; safe to call twice."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
        self._executor.submit(self._close_writer).result()
        self._executor.shutdown()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _on_writer(self, work: Callable[[Connection], T]) -> T:
        if self.read_only:
            raise RegistryError(f"nothing can be changed: {self.notice or 'the registry is read-only.'}")
        self._check_usable()
        if threading.current_thread().name.startswith(_WRITER_THREAD):
            raise RuntimeError("Registry.write inside Registry.write would wait for itself for ever")
        return self._executor.submit(self._guarded, work).result()

    def _guarded(self, work: Callable[[Connection], T]) -> T:
        try:
            if self._writer is None:
                self._writer = sqlite.open_writer(
                    self.path, synchronous="FULL", wal_autocheckpoint=WAL_AUTOCHECKPOINT
                )
            return work(self._writer)
        except sqlite.IntegrityError:
            raise  # a mistake of the program, not something a person can act on
        except sqlite.Error as error:
            raise self._explain(error) from error
        except OverflowError as error:
            raise RegistryError(f"a number is too large for the registry: {error}.") from error

    def _transact(self, writer: Connection, fn: Callable[[Connection], T]) -> T:
        with transaction(writer):
            return fn(writer)

    def _compact(self, writer: Connection) -> int:
        before = self._file_bytes()
        sqlite.release_free_pages(writer)
        sqlite.truncate_wal(writer)
        return max(0, before - self._file_bytes())

    def _file_bytes(self) -> int:
        wal = self.path.with_name(self.path.name + "-wal")
        # By stat alone: to open a live database file drops SQLite's locks on it.
        return sum(path.stat().st_size for path in (self.path, wal) if path.exists())

    def _close_writer(self) -> None:
        if self._writer is None:
            return
        try:
            sqlite.optimize(self._writer)
            sqlite.truncate_wal(self._writer)
        finally:
            self._writer.close()
            self._writer = None

    def _reader(self) -> Connection:
        self._check_usable()
        thread = threading.current_thread()
        reader = self._readers.get(thread)
        if reader is None:
            reader = sqlite.open_reader(self.path)
            with self._lock:
                for ended in [other for other in self._readers if not other.is_alive()]:
                    self._readers.pop(ended).close()
                self._readers[thread] = reader
        return reader

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("this Registry was opened before a fork; open another one in this process")
        if self._closed:
            raise RuntimeError("this Registry is closed")

    def _explain(self, error: sqlite.Error) -> RegistryError:
        why = str(error)
        if "locked" in why or "busy" in why:
            return RegistryError(
                f"another process has kept {self.path} locked for {sqlite.BUSY_TIMEOUT_MS / 1000:g} seconds; "
                'nothing was changed. See which Forge is busy with "forge status", then try again.'
            )
        if "full" in why:
            return RegistryError(
                f"the disk that holds {self.path} is full; nothing was changed. Free some space."
            )
        if "malformed" in why or "not a database" in why:
            return RegistryError(
                f"the registry {self.path} is damaged ({why}). Stop all Forge processes, move it away with "
                f'its -wal and -shm, and put back a "{self.path.name}.v*.backup" if there is one.'
            )
        return RegistryError(f"the registry {self.path} cannot be used: {why}.")
