"""A file that is older, newer, foreign or damaged: what happens to it, and that it is not harmed."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from forge.errors import RegistryError
from forge.home import Home, prepare_home
from forge.registry import MetricsWriter, Registry, edits, queries, sqlite
from forge.registry.migrate import Opening, ensure, migrate
from forge.registry.query import Query, fetch
from forge.registry.schema import METRICS, REGISTRY, Migration, Schema
from forge.registry.sqlite import Connection, one_value, transaction

OLD = Schema("registry", REGISTRY.application_id, REGISTRY.migrations[:1])
ADD_COLOUR = Migration(
    2, "colours", ("ALTER TABLE session ADD COLUMN colour TEXT", "CREATE TABLE hue (a INT) STRICT")
)
ADD_HALF = Migration(3, "broken", ("CREATE TABLE half (a INT) STRICT", "INSERT INTO nowhere VALUES (1)"))
NEW = Schema("registry", REGISTRY.application_id, (*OLD.migrations, ADD_COLOUR))
BROKEN = Schema("registry", REGISTRY.application_id, (*NEW.migrations, ADD_HALF))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def writer(path: Path) -> Connection:
    return sqlite.open_writer(path, synchronous="FULL", wal_autocheckpoint=1000)


def tables(path: Path) -> set[str]:
    with closing(sqlite.open_reader(path)) as connection:
        return set(
            fetch(
                connection, Query("SELECT name FROM sqlite_master WHERE type = 'table'", (), lambda r: r[0])
            )
        )


def make(path: Path, schema: Schema, sessions: Sequence[str] = ()) -> None:
    assert ensure(path, schema) == Opening()
    with closing(writer(path)) as connection, transaction(connection):
        for name in sessions:
            edits.create_session(connection, id=name, name=name, preset="tiny", phases=[], now=1.0)


def test_a_new_file_has_everything(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    make(path, REGISTRY)
    assert tables(path) >= {
        "session", "phase_run", "model", "model_parent", "checkpoint", "handoff", "event", "command", "audit",
        "migration",
    }  # fmt: skip
    with closing(sqlite.open_reader(path)) as connection:
        assert one_value(connection, "PRAGMA application_id") == REGISTRY.application_id
        assert one_value(connection, "PRAGMA user_version") == REGISTRY.version
        assert one_value(connection, "PRAGMA auto_vacuum") == 2
        assert one_value(connection, "PRAGMA journal_mode") == "wal"
        sql = "SELECT count(*) FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND strict = 0"
        assert one_value(connection, f"{sql} AND name NOT LIKE 'sqlite_%'") == 0
        record = Query("SELECT version, sqlite_version FROM migration", (), lambda row: row)
        assert fetch(connection, record) == [(step.version, sqlite.VERSION) for step in REGISTRY.migrations]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # A reader folds nothing in and may leave a log; nothing else is left of the making.
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, "registry.db-wal", "registry.db-shm"}


def test_versions_count_up_from_one() -> None:
    for schema in (REGISTRY, METRICS):
        assert [step.version for step in schema.migrations] == list(range(1, len(schema.migrations) + 1))


def test_a_wrong_type_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "registry.db", REGISTRY, ["a"])
    with closing(writer(tmp_path / "registry.db")) as connection:
        with pytest.raises(sqlite.IntegrityError, match="cannot store TEXT"):
            connection.execute("UPDATE session SET created_at = 'yesterday'")
        with pytest.raises(sqlite.IntegrityError, match="FOREIGN KEY"):
            edits.add_event(connection, "nobody", kind="k", message="m", now=1.0)


def test_an_older_file_is_backed_up_and_migrated(tmp_path: Path) -> None:
    path = tmp_path / "it's old.db"
    make(path, OLD, ["otter", "badger"])
    opening = ensure(path, NEW)
    assert opening.backup is not None
    assert opening.notice is not None
    assert str(opening.backup) in opening.notice
    assert not opening.read_only
    with closing(sqlite.open_reader(path)) as connection:
        assert one_value(connection, "PRAGMA user_version") == 2
        assert one_value(connection, "SELECT count(*) FROM session WHERE colour IS NULL") == 2
        assert one_value(connection, "SELECT name FROM migration WHERE version = 2") == "colours"
    with closing(sqlite.open_reader(opening.backup)) as connection:
        assert one_value(connection, "PRAGMA user_version") == 1
        assert one_value(connection, "PRAGMA application_id") == REGISTRY.application_id
        assert one_value(connection, "SELECT count(*) FROM session") == 2
        assert one_value(connection, "PRAGMA integrity_check") == "ok"
    assert stat.S_IMODE(opening.backup.stat().st_mode) == 0o600
    assert not [entry for entry in tmp_path.iterdir() if entry.name.endswith(".tmp")]
    assert ensure(path, NEW) == Opening()  # once only


def test_the_backup_holds_what_was_only_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    make(path, OLD)
    with closing(writer(path)) as connection:
        edits.create_session(connection, id="a", name="late", preset="tiny", phases=[], now=1.0)
        assert path.with_name("registry.db-wal").stat().st_size > 0
        backup = ensure(path, NEW).backup
    assert backup is not None
    with closing(sqlite.open_reader(backup)) as connection:
        assert one_value(connection, "SELECT name FROM session") == "late"


def test_a_failed_migration_leaves_the_version_before(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    make(path, OLD, ["otter"])
    with closing(writer(path)) as connection, pytest.raises(sqlite.OperationalError, match="nowhere"):
        migrate(connection, BROKEN)
    with closing(sqlite.open_reader(path)) as connection:
        assert (
            one_value(connection, "PRAGMA user_version") == 2
        )  # the step that worked is kept, with its record
        assert one_value(connection, "SELECT max(version) FROM migration") == 2
        assert one_value(connection, "SELECT count(*) FROM session") == 1
    assert "half" not in tables(path)


def test_without_room_for_a_backup_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registry.db"
    make(path, OLD, ["otter"])
    before = digest(path)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("forge.durable.sync_file", full)
    with pytest.raises(RegistryError, match=r"backup.*No space left.*Nothing was changed"):
        ensure(path, NEW)
    assert digest(path) == before
    assert not [entry for entry in tmp_path.iterdir() if "backup" in entry.name]


def test_a_newer_file_is_read_and_not_written(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_home(home)
    make(home.registry, NEW, ["otter"])
    monkeypatch.setattr("forge.registry.schema.REGISTRY", OLD)
    before = digest(home.registry)
    with Registry.open(home) as registry:
        assert registry.read_only
        assert registry.notice is not None
        assert "newer Forge (version 2, this one knows 1)" in registry.notice
        assert [row.name for row in registry.fetch(queries.sessions(limit=5))] == ["otter"]
        with pytest.raises(RegistryError, match="newer Forge"):
            registry.write(lambda c: edits.set_note(c, "otter", "x"))
    assert digest(home.registry) == before


def test_a_newer_metrics_file_is_not_written(metrics_path: Path) -> None:
    MetricsWriter(metrics_path).close()
    with closing(writer(metrics_path)) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(RegistryError, match="newer Forge"):
        MetricsWriter(metrics_path)


def spoil(path: Path, how: str) -> None:
    make(path, REGISTRY, [f"session-{number}" for number in range(300)])
    data = bytearray(path.read_bytes())
    if how == "no database":
        path.write_bytes(b"dear diary, " * 1000)
    elif how == "header":
        path.write_bytes(b"\xff" * 100 + data[100:])
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "inside":
        for page in range(3, len(data) // 4096 - 1):
            data[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
        path.write_bytes(data)
    elif how == "count of free pages":
        data[36:40] = (5).to_bytes(4, "big")
        path.write_bytes(data)
    elif how == "name of a table":
        path.write_bytes(data.replace(b"CREATE TABLE handoff", b"CREATE\xa0TABLE handoff"))
    elif how == "short":
        path.write_bytes(b"SQLite")


@pytest.mark.parametrize(
    "how",
    ["no database", "header", "truncated", "inside", "count of free pages", "name of a table", "short"],
)
def test_a_damaged_file_is_named_and_left_alone(home: Home, how: str) -> None:
    prepare_home(home)
    spoil(home.registry, how)
    before = digest(home.registry)
    with pytest.raises(RegistryError, match=r"damaged.*untouched.*Move it away"):
        Registry.open(home)
    assert digest(home.registry) == before


def test_another_programs_database_is_named_and_left_alone(home: Home) -> None:
    prepare_home(home)
    with closing(sqlite.connect(str(home.registry), isolation_level=None)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.execute("INSERT INTO bookmarks VALUES ('https://example.org')")
    before = digest(home.registry)
    with pytest.raises(RegistryError, match=r"another program.*untouched"):
        Registry.open(home)
    assert digest(home.registry) == before


def test_a_metrics_file_is_no_registry(home: Home) -> None:
    prepare_home(home)
    MetricsWriter(home.registry).close()
    with pytest.raises(RegistryError, match="not a Forge registry"):
        Registry.open(home)


def test_a_folder_in_its_place_is_an_error_in_words(home: Home) -> None:
    prepare_home(home)
    home.registry.mkdir()
    (home.registry / "x").touch()
    with pytest.raises(RegistryError, match="is no regular file"):
        Registry.open(home)


def test_damage_found_later_is_told_as_well(registry: Registry, session: str) -> None:
    def damage(c: Connection) -> None:
        c.execute("PRAGMA writable_schema=ON")
        c.execute("UPDATE sqlite_master SET rootpage = 2 WHERE name = 'event'")

    registry.write(lambda c: edits.add_event(c, session, kind="k", message="m", now=1.0))
    registry.write(damage)
    with pytest.raises(RegistryError, match="damaged"):
        registry.fetch(queries.latest_events(session, 5))


@pytest.mark.parametrize("left", ["nothing", "empty file", "empty database"])
def test_a_start_that_was_cut_short_is_finished(home: Home, left: str) -> None:
    prepare_home(home)
    if left == "empty file":
        home.registry.touch(0o600)
    elif left == "empty database":
        writer(home.registry).close()
        assert home.registry.stat().st_size > 0
    with Registry.open(home) as registry:
        assert registry.fetch(queries.sessions(limit=1)) == []


def test_whoever_creates_the_file_second_uses_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "registry.db"

    def build_and_be_overtaken(building: Path, schema: Schema) -> None:
        monkeypatch.undo()
        make(path, schema, ["first"])
        make(building, schema)

    monkeypatch.setattr("forge.registry.migrate._migrate_file", build_and_be_overtaken)
    assert ensure(path, REGISTRY) == Opening()
    with closing(sqlite.open_reader(path)) as connection:
        assert one_value(connection, "SELECT name FROM session") == "first"


OPEN = """
import sys
from pathlib import Path
from forge.home import Home
from forge.registry import Registry, edits
with Registry.open(Home(Path(sys.argv[1]))) as r:
    r.write(lambda c: edits.create_session(c, id=sys.argv[2], name="same", preset="t", phases=[], now=1.0))
"""


def test_four_processes_create_the_registry_at_once(home: Home) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(home.root), f"{number}"], stderr=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert errors == [""] * 4
    with Registry.open(home) as registry:
        names = sorted(row.name for row in registry.fetch(queries.sessions(limit=9)))
    assert names == ["same", "same-2", "same-3", "same-4"]
    assert [entry.name for entry in home.root.iterdir() if ".new-" in entry.name] == []
