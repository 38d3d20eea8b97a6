"""The library is a fixed one, and every connection really has the recipe."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from forge.errors import NotFoundError, RegistryError
from forge.registry import sqlite
from forge.registry.query import Query, fetch
from forge.registry.sqlite import Connection, one_value, open_reader, open_writer, transaction


def new_writer(path: Path, journal: sqlite.Journal | None = None) -> Connection:
    connection = open_writer(path, synchronous="FULL", wal_autocheckpoint=500, journal=journal)
    connection.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER, b BLOB) STRICT")
    return connection


AFFECTED = [(3, 7, 0), (3, 40, 1), (3, 44, 5), (3, 45, 1), (3, 50, 4), (3, 51, 0), (3, 51, 2)]
FIXED = [(3, 6, 23), (3, 44, 6), (3, 50, 7), (3, 51, 3), (3, 53, 4), (4, 0, 0)]


@pytest.mark.parametrize(("version", "fixed"), [*((v, False) for v in AFFECTED), *((v, True) for v in FIXED)])
def test_versions_with_the_wal_reset_bug_are_known(version: tuple[int, ...], fixed: bool) -> None:
    assert sqlite.is_fixed(version) is fixed


def test_the_first_fixed_library_wins_and_an_affected_one_goes_without_wal() -> None:
    assert sqlite.choose([("pysqlite3", (3, 53, 4)), ("sqlite3", (3, 54, 0))]) == ("pysqlite3", True)
    assert sqlite.choose([("pysqlite3", (3, 51, 1)), ("sqlite3", (3, 51, 3))]) == ("sqlite3", True)
    assert sqlite.choose([("pysqlite3", (3, 51, 1)), ("sqlite3", (3, 40, 1))]) == ("pysqlite3", False)
    assert sqlite.choose([("sqlite3", (3, 40, 1))]) == ("sqlite3", False)


def test_this_machine_can_use_wal() -> None:
    # Not skipped anywhere: a machine that cannot must be seen, or all that follows tests another mode.
    assert sqlite.WAL_SAFE, f"{sqlite.LIBRARY} {sqlite.VERSION} has the WAL-reset bug"


def test_the_writer_has_the_recipe(tmp_path: Path) -> None:
    with closing(new_writer(tmp_path / "a.db")) as connection:
        found = {
            name: one_value(connection, f"PRAGMA {name}")
            for name in (
                "journal_mode", "foreign_keys", "busy_timeout", "synchronous", "wal_autocheckpoint",
                "journal_size_limit", "trusted_schema", "cell_size_check", "mmap_size", "auto_vacuum",
            )
        }  # fmt: skip
    assert found == {
        "journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000, "synchronous": 2,
        "wal_autocheckpoint": 500, "journal_size_limit": 64 << 20, "trusted_schema": 0, "cell_size_check": 1,
        "mmap_size": 0, "auto_vacuum": 2,
    }  # fmt: skip


def test_the_reader_has_the_recipe_and_cannot_write(tmp_path: Path) -> None:
    new_writer(tmp_path / "a.db").close()
    with closing(open_reader(tmp_path / "a.db")) as connection:
        names = ("query_only", "trusted_schema", "busy_timeout", "mmap_size")
        assert [one_value(connection, f"PRAGMA {name}") for name in names] == [1, 0, 30_000, 0]
        with pytest.raises(sqlite.OperationalError, match="readonly"):
            connection.execute("INSERT INTO t VALUES (1, NULL)")
        connection.execute("PRAGMA query_only=OFF")
        with pytest.raises(sqlite.OperationalError, match="readonly"):
            connection.execute("INSERT INTO t VALUES (1, NULL)")


def test_freed_pages_can_be_given_back(tmp_path: Path) -> None:
    with closing(new_writer(tmp_path / "a.db")) as connection:
        connection.execute("INSERT INTO t VALUES (1, zeroblob(1000000))")
        connection.execute("DELETE FROM t")
        before = one_value(connection, "PRAGMA freelist_count")
        connection.execute("PRAGMA incremental_vacuum").fetchall()
        assert before > 100
        assert one_value(connection, "PRAGMA freelist_count") < before


def test_files_are_private_also_the_log_beside_them(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(new_writer(tmp_path / "a.db")):
            modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}


def test_a_name_with_url_characters_is_a_plain_name(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory#%20é.db"
    new_writer(path).close()
    with closing(open_reader(path)) as connection:
        assert one_value(connection, "SELECT count(*) FROM t") == 0
    assert path.stat().st_size > 0


def test_a_refused_journal_mode_is_an_error() -> None:
    memory = closing(sqlite.connect(":memory:", isolation_level=None))
    with memory as connection, pytest.raises(RegistryError, match="journal mode memory"):
        sqlite._set_journal(connection, "WAL", Path("somewhere.db"))


def insert_and_fail(connection: Connection) -> None:
    with transaction(connection):
        connection.execute("INSERT INTO t VALUES (1, NULL)")
        raise KeyError


def test_a_transaction_is_whole_or_nothing(tmp_path: Path) -> None:
    with closing(new_writer(tmp_path / "a.db")) as connection:
        with pytest.raises(KeyError):
            insert_and_fail(connection)
        assert not connection.in_transaction
        with transaction(connection):
            connection.execute("INSERT INTO t VALUES (2, NULL)")
        assert fetch(connection, Query("SELECT a FROM t", (), lambda row: row[0])) == [2]


def test_a_transaction_holds_the_write_lock_from_its_start(tmp_path: Path, impatient: None) -> None:
    standard = importlib.import_module("sqlite3").Error
    one, other = new_writer(tmp_path / "a.db"), new_writer(tmp_path / "a.db")
    locked = pytest.raises(sqlite.OperationalError, match="locked")
    with closing(one), closing(other), transaction(one), locked as caught, transaction(other):
        pytest.fail("the second writer got in")
    # Why only our names are used: the standard library's do not catch it.
    assert isinstance(caught.value, standard) is (sqlite.LIBRARY == "sqlite3")


def test_reads_leave_nothing_open_so_the_wal_can_be_emptied(tmp_path: Path) -> None:
    path, wal = tmp_path / "a.db", tmp_path / "a.db-wal"
    with closing(new_writer(path)) as connection, closing(open_reader(path)) as reader:
        for number in range(50):
            connection.execute("INSERT INTO t VALUES (?, zeroblob(5000))", [number])
        assert len(fetch(reader, Query("SELECT a FROM t LIMIT 7", (), lambda row: row[0]))) == 7
        assert one_value(reader, "SELECT a FROM t") == 0  # many rows, one wanted
        assert wal.stat().st_size > 0
        assert sqlite.truncate_wal(connection)
        assert wal.stat().st_size == 0

        # The control: one cursor that is not read to its end, and it does not work any more.
        connection.execute("INSERT INTO t VALUES (99, NULL)")
        forgotten = reader.execute("SELECT a FROM t")
        forgotten.fetchone()
        connection.execute("INSERT INTO t VALUES (100, NULL)")
        assert not sqlite.truncate_wal(connection)
        forgotten.close()
        assert sqlite.truncate_wal(connection)
        assert one_value(connection, "PRAGMA busy_timeout") == 30_000


def test_unwritable_media_is_read_as_immutable_unless_a_log_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    new_writer(path).close()
    # root may write everywhere, so what the kernel would say on such media is put in its mouth
    monkeypatch.setattr("os.access", lambda *_: False)
    with closing(open_reader(path)) as connection:
        assert one_value(connection, "SELECT count(*) FROM t") == 0
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.db"]  # nothing was created
    (tmp_path / "a.db-wal").touch()
    with pytest.raises(RegistryError, match="write-ahead log"):
        open_reader(path)


def test_a_missing_file_is_not_created_by_reading(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_reader(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_an_sqlite_without_strict_tables_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.registry.sqlite.STRICT_SINCE", (99, 0, 0))
    with pytest.raises(RegistryError, match="pysqlite3"):
        new_writer(tmp_path / "a.db")
    assert list(tmp_path.iterdir()) == []


DYING = """
import os, sys
from pathlib import Path
from forge.registry import sqlite
c = sqlite.open_writer(Path(sys.argv[1]), synchronous="FULL", wal_autocheckpoint=0, journal=sys.argv[2])
c.execute("CREATE TABLE t (a INTEGER, b BLOB) STRICT")
with sqlite.transaction(c):
    c.execute("INSERT INTO t VALUES (1, zeroblob(100))")
c.execute("PRAGMA cache_size=5")
c.execute("BEGIN IMMEDIATE")
c.execute("UPDATE t SET a = 666")
for _ in range(300):  # more than the cache holds, so half a transaction reaches the disk
    c.execute("INSERT INTO t VALUES (666, zeroblob(9000))")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_reader_after_kill_sees_the_last_commit(tmp_path: Path, journal: str) -> None:
    path = tmp_path / "a.db"
    subprocess.run([sys.executable, "-c", DYING, str(path), journal], check=False, timeout=60)
    spilled = path.with_name("a.db-wal") if journal == "WAL" else path
    assert spilled.stat().st_size > 1_000_000  # or the kill came too early to show anything
    sqlite.recover(path)
    with closing(open_reader(path)) as connection:
        assert fetch(connection, Query("SELECT a FROM t", (), lambda row: row[0])) == [1]
