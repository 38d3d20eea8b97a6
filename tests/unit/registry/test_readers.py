"""What the screens read with: notices changes, disturbs nobody, and its errors can be caught."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from forge.errors import NotFoundError
from forge.registry import (
    Error,
    MetricsWriter,
    OperationalError,
    Reader,
    Registry,
    edits,
    queries,
    sqlite,
)
from forge.registry.query import Query


async def test_it_notices_commits_and_only_those(registry: Registry, session: str) -> None:
    reader = await Reader.open(registry.path)
    assert await reader.changed()
    assert not await reader.changed()
    await reader.fetch(queries.sessions(limit=5))
    assert not await reader.changed()
    registry.write(lambda c: edits.set_note(c, session, "new"))
    assert await reader.changed()
    row = await reader.one(queries.session(session))
    assert row is not None
    assert row.note == "new"
    assert await reader.one(queries.session("nobody")) is None
    await reader.close()
    await reader.close()


async def test_a_new_epoch_tells_it_to_read_again(writer: MetricsWriter, metrics_path: Path) -> None:
    writer.append([("p", step, {"loss": 1.0}) for step in range(10)])
    reader = await Reader.open(metrics_path)
    (before,) = await reader.fetch(queries.series("p"))
    writer.rewind("p", {"loss": 3})
    writer.append([("p", step, {"loss": 2.0}) for step in range(4, 6)])
    assert await reader.changed()
    (after,) = await reader.fetch(queries.series("p"))
    assert (before.epoch, after.epoch, after.last_step) == (0, 1, 5)
    values = [row.value for row in await reader.fetch(queries.points_after(after.id, -1, 100))]
    assert values == [1.0] * 4 + [2.0] * 2
    await reader.close()


async def test_its_lock_error_is_caught_by_our_name_and_not_by_the_standard_librarys(
    tmp_path: Path, impatient: None
) -> None:
    path = tmp_path / "a.db"
    # In WAL mode nobody can lock a reader out; a rollback journal, the fallback, can.
    with closing(
        sqlite.open_writer(path, synchronous="FULL", wal_autocheckpoint=0, journal="DELETE")
    ) as writer:
        writer.execute("CREATE TABLE t (a INTEGER) STRICT")
        reader = await Reader.open(path)
        count = Query("SELECT count(*) FROM t", (), lambda row: int(row[0]))
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Error) as caught:
            await reader.fetch(count)
        writer.execute("COMMIT")
        assert isinstance(caught.value, OperationalError)
        assert "locked" in str(caught.value)
        standard = importlib.import_module("sqlite3").Error
        assert isinstance(caught.value, standard) is (sqlite.LIBRARY == "sqlite3")
        assert await reader.fetch(count) == [0]  # and it goes on
        await reader.close()


async def test_a_missing_file_is_told_and_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.db"):
        await Reader.open(tmp_path / "none.db")
    for thread in [thread for thread in threading.enumerate() if "_connection_worker" in thread.name]:
        thread.join(60)
        assert not thread.is_alive()


async def test_it_cannot_write(registry: Registry, session: str) -> None:
    reader = await Reader.open(registry.path)
    with pytest.raises(OperationalError, match="readonly"):
        await reader.fetch(Query("DELETE FROM session RETURNING id", (), lambda row: row[0]))
    await reader.close()
    assert registry.one(queries.count_sessions()) == 1


async def test_it_leaves_nothing_open_so_the_wal_can_be_emptied(
    writer: MetricsWriter, metrics_path: Path
) -> None:
    reader = await Reader.open(metrics_path)
    writer.append([("p", step, {"loss": 1.0}) for step in range(5000)])
    (row,) = await reader.fetch(queries.series("p"))
    assert len(await reader.fetch(queries.points_after(row.id, 0, 10))) == 10
    assert len(await reader.fetch(queries.buckets(row.id, 0, 5000, 20))) == 20
    assert sqlite.truncate_wal(writer._connection)
    assert metrics_path.with_name("metrics.db-wal").stat().st_size == 0
    await reader.close()


async def test_a_cancelled_read_leaves_nothing_open_either(writer: MetricsWriter, metrics_path: Path) -> None:
    reader = await Reader.open(metrics_path)
    writer.append([("p", step, {"loss": 1.0}) for step in range(50_000)])
    reading = asyncio.create_task(reader.fetch(queries.points_after(1, -1, 50_000)))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert len(await reader.fetch(queries.series("p"))) == 1
    assert sqlite.truncate_wal(writer._connection)
    await reader.close()


FORGETFUL = """
import asyncio, sys
from pathlib import Path
from forge.registry import Reader
async def main():
    global reader
    reader = await Reader.open(Path(sys.argv[1]))
asyncio.run(main())
"""


def test_a_forgotten_reader_does_not_hang_the_interpreter(writer: MetricsWriter, metrics_path: Path) -> None:
    command = [sys.executable, "-c", FORGETFUL, str(metrics_path)]
    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
