"""One writing thread, a reader per thread, and errors that a person can act on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from forge.errors import HomeError, RegistryError
from forge.home import Home
from forge.registry import Connection, Registry, edits, queries, sqlite
from forge.registry.sqlite import one_value, transaction


def test_all_writes_happen_on_one_thread(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(lambda _: registry.write(lambda c: threading.current_thread().name), range(50)))
    assert len(seen) == 1
    assert next(iter(seen)).startswith("forge-registry")


def test_each_thread_reads_on_its_own_connection_and_ended_ones_are_closed(
    registry: Registry, session: str
) -> None:
    def read() -> int | None:
        return registry.one(queries.count_sessions())

    for _ in range(5):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert read() == 1
    assert len(registry._readers) == 1


def test_writing_inside_a_write_is_an_error_and_no_hang(registry: Registry, session: str) -> None:
    with pytest.raises(RuntimeError, match="for ever"):
        registry.write(lambda c: registry.write(lambda d: None))
    assert registry.write(lambda c: edits.set_note(c, session, "alive")).note == "alive"


def test_a_lock_held_too_long_is_told_in_a_sentence(home: Home, impatient: None) -> None:
    with Registry.open(home) as registry, closing(other_writer(home)) as other:
        with transaction(other), pytest.raises(RegistryError, match=r"locked for 0\.05 seconds.*try again"):
            registry.write(lambda c: None)
        registry.write(lambda c: None)  # free again


def other_writer(home: Home) -> Connection:
    return sqlite.open_writer(home.registry, synchronous="FULL", wal_autocheckpoint=1000)


def test_a_full_disk_is_told_in_a_sentence_and_changes_nothing(registry: Registry, session: str) -> None:
    registry.write(
        lambda c: c.execute(f"PRAGMA max_page_count={one_value(c, 'PRAGMA page_count') + 5}").close()
    )
    with pytest.raises(RegistryError, match=r"disk.*full.*nothing was changed"):
        registry.write(lambda c: edits.set_note(c, session, "x" * 1_000_000))
    assert registry.write(lambda c: edits.set_note(c, session, "small")).note == "small"


def test_data_version_moves_with_commits_of_this_process_and_of_others(
    home: Home, registry: Registry, session: str
) -> None:
    seen = [registry.data_version()]
    registry.write(lambda c: edits.set_note(c, session, "mine"))
    seen.append(registry.data_version())
    with closing(other_writer(home)) as other:
        edits.set_note(other, session, "theirs")
        seen.append(registry.data_version())
        assert registry.data_version() == seen[-1]
    assert len(set(seen)) == 3


def test_the_registry_commits_with_full_synchronous(registry: Registry) -> None:
    found = registry.write(
        lambda c: [
            one_value(c, f"PRAGMA {name}") for name in ("synchronous", "wal_autocheckpoint", "foreign_keys")
        ]
    )
    assert found == [2, 1000, 1]


def test_closing_leaves_one_file(home: Home) -> None:
    registry = Registry.open(home)
    registry.write(lambda c: edits.create_session(c, id="a", name="a", preset="t", phases=[], now=1.0))
    registry.fetch(queries.sessions(limit=1))
    registry.close()
    registry.close()
    left = sorted(entry.name for entry in home.root.iterdir() if entry.is_file())
    assert left == ["cleanup.lock", "registry.db"]
    for call in (lambda: registry.write(lambda c: None), lambda: registry.fetch(queries.sessions(limit=1))):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_closing_beside_a_reader_does_not_wait_for_it(home: Home) -> None:
    registry = Registry.open(home)
    registry.write(lambda c: edits.create_session(c, id="a", name="a", preset="t", phases=[], now=1.0))
    with closing(sqlite.open_reader(home.registry)) as reader:
        open_statement = reader.execute("SELECT * FROM sqlite_master")
        open_statement.fetchone()
        closer = threading.Thread(target=registry.close)
        closer.start()
        closer.join(10)
        assert not closer.is_alive()  # with the busy timeout of 30 s it would be
        open_statement.close()
    with Registry.open(home) as again:
        assert again.one(queries.count_sessions()) == 1


def test_after_a_fork_it_refuses(registry: Registry, session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    monkeypatch.setattr("os.getpid", lambda: parent + 1)
    for call in (lambda: registry.write(lambda c: None), lambda: registry.fetch(queries.sessions(limit=1))):
        with pytest.raises(RuntimeError, match="fork"):
            call()
    registry.close()  # would close the parent's connections: must do nothing
    monkeypatch.undo()
    assert registry.one(queries.count_sessions()) == 1


def test_a_home_that_cannot_be_written_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(HomeError, match="not writable"):
        Registry.open(home)


COUNTING = """
import sys
from pathlib import Path
from forge.home import Home
from forge.registry import Registry, edits
def add(c):
    note = edits.get_session(c, "counter").note
    edits.set_note(c, "counter", str(int(note or 0) + 1))
with Registry.open(Home(Path(sys.argv[1]))) as r:
    for _ in range(int(sys.argv[2])):
        r.write(add)
"""


def test_four_processes_read_then_write_without_an_error_or_a_lost_update(home: Home) -> None:
    with Registry.open(home) as registry:
        registry.write(
            lambda c: edits.create_session(c, id="counter", name="c", preset="t", phases=[], now=1.0)
        )
        command = [sys.executable, "-c", COUNTING, str(home.root), "50"]
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
        errors = [process.communicate(timeout=120)[1] for process in processes]
        assert errors == [""] * 4
        row = registry.one(queries.session("counter"))
    assert row is not None
    assert row.note == "200"


def test_importing_it_is_cheap() -> None:
    heavy = ("torch", "numpy", "aiosqlite", "asyncio", "textual")
    script = f"import sys, forge.registry; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
