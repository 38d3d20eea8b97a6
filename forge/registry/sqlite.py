"""The one SQLite library of the process, and the one connection recipe.

SQLite 3.7.0 to 3.51.2 can corrupt a WAL database shared by several writers or checkpointers, and system
Pythons ship such versions. So this module alone imports a binding; everybody else imports from here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import aiosqlite

Connection = Any
"""A DB-API connection of whichever library was chosen; the two have no common type."""


def _wal_safe(version: tuple[int, ...]) -> bool:
    backports = (version[:2] == (3, 50) and version >= (3, 50, 7)) or (
        version[:2] == (3, 44) and version >= (3, 44, 6)
    )
    return version >= (3, 51, 3) or backports


def _choose() -> tuple[Any, str]:
    try:
        return importlib.import_module("pysqlite3.dbapi2"), "pysqlite3"
    except ImportError:
        return importlib.import_module("sqlite3"), "sqlite3"


_module, LIBRARY = _choose()
VERSION: str = _module.sqlite_version
WAL_SAFE: bool = _wal_safe(_module.sqlite_version_info)
JOURNAL_MODE = "wal" if WAL_SAFE else "delete"
"""With an affected library the rollback journal is slower but safe."""

Row: Any = _module.Row
Error: type[Exception] = _module.Error
DatabaseError: type[Exception] = _module.DatabaseError
OperationalError: type[Exception] = _module.OperationalError
IntegrityError: type[Exception] = _module.IntegrityError

BUSY_SECONDS = 30.0
_COMMON = ("foreign_keys=ON", f"busy_timeout={int(BUSY_SECONDS * 1000)}", "trusted_schema=OFF", "cell_size_check=ON")


def connect(target: str, **options: Any) -> Connection:
    """A bare connection of the chosen library with explicit transactions."""
    options.setdefault("timeout", BUSY_SECONDS)
    return _module.connect(target, isolation_level=None, **options)


def open_writer(path: Path, *, synchronous: Literal["FULL", "NORMAL"], wal_autocheckpoint: int = 1000) -> Connection:
    """Open a database for writing, creating it private to its owner.

    Raises:
        Error: not a database, or WAL was refused.
    """
    fresh = not path.exists()
    if fresh:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = connect(str(path), check_same_thread=False)
    try:
        if fresh:
            # Takes effect only before WAL and the first table.
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        (mode,) = connection.execute(f"PRAGMA journal_mode={JOURNAL_MODE}").fetchone()
        if mode != JOURNAL_MODE:
            raise OperationalError(f"{path}: journal mode {JOURNAL_MODE} was refused (got {mode})")
        pragmas = (*_COMMON, f"synchronous={synchronous}", f"wal_autocheckpoint={wal_autocheckpoint}")
        for pragma in (*pragmas, "journal_size_limit=67108864"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _reader_uri(path: Path) -> str:
    uri = path.resolve().as_uri() + "?mode=ro"
    unwritable = not os.access(path.parent, os.W_OK)
    if unwritable and not path.with_name(path.name + "-wal").exists():
        # A reader of a WAL database must write its shared memory; on read-only media nobody else writes.
        uri += "&immutable=1"
    return uri


_READER = (*_COMMON, "query_only=ON")


def open_reader(path: Path) -> Connection:
    """Open a database for reading only."""
    connection = connect(_reader_uri(path), uri=True, check_same_thread=False)
    try:
        for pragma in _READER:
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


async def connect_reader(path: Path) -> aiosqlite.Connection:
    """Open a database for reading from an event loop; the caller closes it."""
    uri = _reader_uri(path)
    connection = await aiosqlite.Connection(lambda: connect(uri, uri=True), 64)
    try:
        for pragma in _READER:
            await connection.execute_fetchall(f"PRAGMA {pragma}")
    except BaseException:
        await connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: Connection) -> Iterator[Connection]:
    """`BEGIN IMMEDIATE … COMMIT`; rolled back on any exception.

    A plain BEGIN that upgrades from reading to writing is the classic "database is locked".
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
