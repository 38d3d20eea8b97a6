"""The one door to SQLite: which library, which connection recipe, which transaction.

Nothing else imports `sqlite3`, `pysqlite3` or `aiosqlite`: two copies of SQLite on one file in one process
drop each other's POSIX locks, and the errors of one are not caught by the names of the other.
"""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forge import durable
from forge.errors import NotFoundError, RegistryError

if TYPE_CHECKING:
    import sqlite3 as _binding

    import aiosqlite

BUSY_TIMEOUT_MS = 30_000
JOURNAL_SIZE_LIMIT = 64 << 20
STRICT_SINCE = (3, 37, 0)
_ITER_CHUNK = 64
_VACUUM_PAGES = 4096

Synchronous = Literal["FULL", "NORMAL"]
Journal = Literal["WAL", "DELETE"]


def is_fixed(version: tuple[int, ...]) -> bool:
    """Whether this SQLite is free of the WAL-reset bug of 3.7.0-3.51.2 (backported to 3.50.7 and 3.44.6)."""
    if version >= (3, 51, 3) or version < (3, 7):
        return True
    return (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def choose(found: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[str, bool]:
    """Pick a library from `(name, SQLite version)` in order of preference.

    Returns:
        Its name, and whether WAL may be used: with an affected version only the newest is left, without WAL.
    """
    for name, version in found:
        if is_fixed(version):
            return name, True
    return max(found, key=lambda item: item[1])[0], False


def _load() -> tuple[Any, str, bool]:
    modules = {}
    for name in ("pysqlite3", "sqlite3"):
        with suppress(ImportError):  # the wheel does not exist for every platform
            modules[name] = importlib.import_module(f"{name}.dbapi2")
            if is_fixed(modules[name].sqlite_version_info):
                break
    name, safe = choose([(name, module.sqlite_version_info) for name, module in modules.items()])
    return modules[name], name, safe


if not TYPE_CHECKING:
    _binding, LIBRARY, WAL_SAFE = _load()
else:
    LIBRARY: Literal["pysqlite3", "sqlite3"]
    WAL_SAFE: bool

VERSION: str = _binding.sqlite_version
JOURNAL: Journal = "WAL" if WAL_SAFE else "DELETE"

if TYPE_CHECKING:
    AsyncConnection = aiosqlite.Connection
connect = _binding.connect
Connection = _binding.Connection
Row = _binding.Row
Error = _binding.Error
DatabaseError = _binding.DatabaseError
OperationalError = _binding.OperationalError
IntegrityError = _binding.IntegrityError


def open_writer(
    path: Path, *, synchronous: Synchronous, wal_autocheckpoint: int, journal: Journal | None = None
) -> Connection:
    """Open for writing, and create an empty file with mode 0600 where there is none.

    Args:
        path: the database file.
        synchronous: `FULL` where every commit must survive a power cut.
        wal_autocheckpoint: pages in the WAL after which a commit also checkpoints.
        journal: `WAL`, or `DELETE` where the library is affected by the WAL-reset bug; none picks.
    """
    _require_strict()
    path = Path(os.path.realpath(path))
    if not path.exists():
        with suppress(FileExistsError):
            # Exclusive, so nobody can have it open yet: closing this descriptor cannot drop anyone's locks.
            os.close(durable.create(path, exclusive=True))
    require_file(path)
    _make_private(path)
    connection = connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=_busy_seconds())
    try:
        _prepare(connection)
        if one_value(connection, "PRAGMA page_count") == 0:
            # Must precede WAL and the first table: either writes the header, and then it is too late.
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        _set_journal(connection, journal or JOURNAL, path)
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint={int(wal_autocheckpoint)}")
        connection.execute(f"PRAGMA journal_size_limit={JOURNAL_SIZE_LIMIT}").close()
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> Connection:
    """Open for reading only; may be closed by another thread than the one that reads.

    Raises:
        NotFoundError: there is no such file.
        RegistryError: unwritable media with a `-wal` beside the file, which cannot be read without writing.
    """
    path = Path(os.path.realpath(path))
    mode = _reader_mode(path)
    _make_private(path)
    connection = connect(
        f"{path.as_uri()}?{mode}",
        uri=True,
        isolation_level=None,
        timeout=_busy_seconds(),
        check_same_thread=False,
    )
    try:
        _prepare(connection)
        connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def async_reader(path: Path) -> aiosqlite.Connection:
    """An `aiosqlite` connection on the same library and recipe as `open_reader`; await it to open."""
    import aiosqlite  # 50 ms of asyncio that `forge --help` need not pay

    connection = aiosqlite.Connection(lambda: open_reader(path), _ITER_CHUNK)
    # Its thread is not a daemon, so one connection left open would hang the interpreter at exit.
    connection._thread.daemon = True
    return connection


async def connect_reader(path: Path) -> aiosqlite.Connection:
    """Open `async_reader`; errors are those of this module, not aiosqlite's."""
    connection = async_reader(path)
    try:
        return await connection
    except Exception:
        # Its thread has one more thing to tell the loop, and must not find it closed.
        connection._thread.join(timeout=1.0)
        raise


def require_file(path: Path) -> None:
    """Refuse what is no file: SQLite would wait for ever for somebody who writes into a named pipe.

    Raises:
        RegistryError: it, or its log, is something else.
    """
    for each in _files(path):
        if each.exists() and not each.is_file():
            raise RegistryError(
                f"{each} is no regular file, so nothing is read from it. Move it away and start again."
            )


def _make_private(path: Path) -> None:
    """Close to others what its owner unpacked or copied with everybody's permissions.

    By name: a descriptor of ours, once closed, would drop the locks of whoever uses the file.
    """
    for each in _files(path):
        with suppress(OSError):  # gone by now, or on a medium that takes no change
            found = each.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077 and found.st_uid == os.geteuid():
                each.chmod(0o600)


def _files(path: Path) -> tuple[Path, ...]:
    """A database and what SQLite keeps beside it."""
    return (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal")))


def recover(path: Path) -> None:
    """Roll back what a crash left half-written in a rollback journal; readers may not do that themselves."""
    path = Path(os.path.realpath(path))
    journal = path.with_name(path.name + "-journal")
    if not journal.exists() or not os.access(path.parent, os.W_OK):
        return
    connection = connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=_busy_seconds())
    try:
        one_value(connection, "SELECT count(*) FROM sqlite_master")
    finally:
        connection.close()


@contextmanager
def transaction(connection: Connection) -> Iterator[Connection]:
    """`BEGIN IMMEDIATE ... COMMIT`, or `ROLLBACK` when the body or the commit fails.

    Never a plain BEGIN: a read transaction that upgrades after another commit fails at once, whatever the
    busy timeout.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        durable.perform("commit", lambda: connection.execute("COMMIT"), connection)
    except BaseException:
        # SQLite itself rolls back on some errors (disk full, I/O), and a second ROLLBACK would fail.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """All reads inside the block see one state of the file; a long block lets the WAL grow."""
    connection.execute("BEGIN").close()
    try:
        yield
    finally:
        connection.execute("COMMIT").close()


def problems(connection: Connection) -> list[str]:
    """What SQLite finds wrong in a file: its structure, its indexes, references that lead nowhere."""
    rows = connection.execute("PRAGMA integrity_check(10)").fetchall()
    found = [str(row[0]) for row in rows if row[0] != "ok"]
    rows = connection.execute("PRAGMA foreign_key_check").fetchall()
    return found + [f"a row of {table} refers to {parent}, where it is not" for table, _, parent, _ in rows]


def one_value(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """The first column of the only row, or none; leaves no open statement."""
    cursor = connection.execute(sql, parameters)
    try:
        rows = cursor.fetchall()
    finally:
        cursor.close()
    return rows[0][0] if rows else None


def truncate_wal(connection: Connection, attempts: int = 3) -> bool:
    """Fold the WAL into the file and empty it; false while a reader or writer is in the way."""
    # A TRUNCATE checkpoint waits for readers with the busy timeout, and leaving must not take half a minute.
    before = one_value(connection, "PRAGMA busy_timeout")
    connection.execute("PRAGMA busy_timeout=100").close()
    try:
        return any(one_value(connection, "PRAGMA wal_checkpoint(TRUNCATE)") == 0 for _ in range(attempts))
    except OperationalError:
        # Locked is an answer here too; what is in the WAL stays valid and the next opener folds it in.
        return False
    finally:
        connection.execute(f"PRAGMA busy_timeout={before}").close()


def release_free_pages(connection: Connection) -> None:
    """Give the free pages of a file back to the file system, outside a transaction.

    In bites, so that no other writer waits long.
    """
    free = one_value(connection, "PRAGMA freelist_count")
    while free:
        # `executescript` steps the pragma to its end; through `execute` it frees a single page.
        connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").close()
        before, free = free, one_value(connection, "PRAGMA freelist_count")
        if free >= before:
            return  # a file that was made without auto_vacuum keeps its pages


def optimize(connection: Connection) -> None:
    """Refresh the planner's statistics where worth it; meant for just before closing."""
    try:
        connection.execute("PRAGMA optimize").close()
    except OperationalError:
        # Another process writes at this moment: statistics are a convenience, and leaving must not wait.
        return


def _prepare(connection: Connection) -> None:
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    # Several processes share the file, and mmap makes the WAL-reset bug worse.
    connection.execute("PRAGMA mmap_size=0").close()


def _set_journal(connection: Connection, journal: Journal, path: Path) -> None:
    # The mode is asked for, not commanded: SQLite answers with the one it kept and raises nothing.
    reply = one_value(connection, f"PRAGMA journal_mode={journal}")
    if str(reply).upper() != journal:
        raise RegistryError(
            f"SQLite keeps journal mode {reply} for {path} instead of {journal}. "
            "Put the Forge home on a local disk with FORGE_HOME=/path."
        )


def _reader_mode(path: Path) -> str:
    if not path.exists():
        raise NotFoundError(f"there is no database at {path}.")
    require_file(path)
    if os.access(path.parent, os.W_OK):
        return "mode=ro"
    if path.with_name(path.name + "-wal").exists():
        raise RegistryError(
            f"{path} has a write-ahead log beside it and its folder is not writable, so it cannot be read "
            "safely. Copy the whole folder to a writable place and open it there."
        )
    return "mode=ro&immutable=1"


def _require_strict() -> None:
    if _binding.sqlite_version_info < STRICT_SINCE:
        raise RegistryError(
            f"SQLite {VERSION} is too old for Forge's tables (3.37 or newer is needed). "
            "Install the pysqlite3 package: pip install pysqlite3."
        )


def _busy_seconds() -> float:
    return BUSY_TIMEOUT_MS / 1000
