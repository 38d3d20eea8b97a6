"""A home that is damaged, or prepared by somebody else: a sentence and an exit code, soon, no traceback.

Files are cut, flipped, swapped for folders, pipes and other programs' databases; then every command that
reads looks. Nothing outside the home changes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3  # noqa: TID251 - as another program would
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge.home import Home, prepare_home
from forge.registry import Registry, State, open_writer, queries
from forge.registry.sqlite import OperationalError
from tests.unit.cli.conftest import Result, add, invoke

SECONDS = 60
"""A command that takes longer hangs."""
CODES = {0, 1, 3, 4, 6, 8, 9, 10}
READERS = [
    ["sessions"], ["sessions", "--json"], ["status"], ["status", "one"], ["status", "two", "--json"],
    ["logs", "one"], ["logs", "one", "--json"], ["trash"], ["clean", "--json"], ["doctor"], ["stop", "one"],
    ["generate", "one", "x"], ["config", "settings"],
]  # fmt: skip
LOOKS = [
    ["status", "one"], ["logs", "one"], ["logs", "two", "--json"], ["clean", "--json"],
    ["stop", "two", "--no-wait"], ["trash"], ["config", "settings"],
]  # fmt: skip


@contextmanager
def soon(what: object) -> Iterator[None]:
    """Fail, instead of waiting for ever."""

    def ring(number: int, frame: object) -> None:
        raise AssertionError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def told(home: Home, *arguments: str) -> Result:
    """What a command says; whatever it raises that is no sentence fails the test with its traceback."""
    with soon(arguments):
        result = invoke(home, *arguments)
    assert result.code in CODES, (arguments, result.code, result.err)
    assert "Traceback" not in result.err + result.out
    if result.code and arguments[0] != "doctor":
        assert "forge: " in result.err, (arguments, result.err)
        assert len(result.err) < 2000
    return result


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a few sessions, a log and metrics."""
    home = prepare_home(Home(tmp_path_factory.mktemp("pristine") / "home"))
    for name, state in (("one", State.STOPPED), ("two", State.RUNNING), ("three", State.FAILED)):
        paths = home.session(add(home, name, state))
        paths.log.write_bytes(b'{"at": 1.0, "level": "info", "kind": "note", "message": "a line"}\n' * 20)
    return home


@pytest.fixture
def damaged(pristine: Home, tmp_path: Path) -> Home:
    """A copy that a test may damage."""
    shutil.copytree(pristine.root, tmp_path / "home")
    return Home(tmp_path / "home")


def surroundings(home: Home) -> dict[str, tuple[int, int]]:
    """Everything beside the home, with its size and time of change."""
    found = {}
    for path in home.root.parent.rglob("*"):
        if not path.is_relative_to(home.root):
            status = path.lstat()
            found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


def fifo(path: Path) -> None:
    """A pipe that nobody writes to."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(path: Path, target: str | Path) -> None:
    """A symbolic link in the place of a file."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def folder(path: Path) -> None:
    """A folder in the place of a file."""
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "x").touch()


def foreign(path: Path) -> None:
    """Another program's database."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA application_id=77")
        other.execute("CREATE TABLE session (id, name)")
        other.commit()


def tables_of_another_shape(path: Path) -> None:
    """Marked as ours, and with other tables."""
    with closing(open_writer(path, synchronous="FULL", wal_autocheckpoint=1000)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        connection.execute("PRAGMA foreign_keys=OFF")
        for (table,) in found:
            if not table.startswith("sqlite_"):
                connection.execute(f'ALTER TABLE "{table}" RENAME TO "old_{table}"')
                connection.execute(f'CREATE TABLE "{table}" (x INTEGER) STRICT')


def rows_of_nonsense(path: Path) -> None:
    """Values that no Forge writes, in pages that are whole."""
    with closing(open_writer(path, synchronous="FULL", wal_autocheckpoint=1000)) as connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        connection.execute("PRAGMA foreign_keys=OFF")
        for sql in (
            "UPDATE session SET state = 'nonsense', created_at = 9e300, updated_at = -9e300",
            "UPDATE phase_run SET report = '{', state = char(27)",
            "UPDATE event SET at = 9e300, level = 'loud'",
            "UPDATE heartbeat SET at = 9e300, step = -1, total_steps = 9223372036854775807",
            "UPDATE point SET kind = 99",
        ):  # fmt: skip
            with suppress(OperationalError):  # the other database has no such table
                connection.execute(sql)


def times_beyond_all_calendars(path: Path) -> None:
    """Numbers that are no times, in rows that are whole otherwise."""
    with closing(open_writer(path, synchronous="FULL", wal_autocheckpoint=1000)) as connection:
        for sql in (
            "UPDATE session SET created_at = 9e300, updated_at = -9e300, ended_at = 9e300",
            "UPDATE event SET at = -9e300, step = 9223372036854775807",
            "UPDATE heartbeat SET at = 9e300, steps_per_second = -1, eta_seconds = 9e300, step = -1",
        ):
            with suppress(OperationalError):  # the other database has no such table
                connection.execute(sql)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a database, and longer than its header would be " * 9, "utf-8"),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut in the header": lambda path: os.truncate(path, 60),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "noise": lambda path: path.write_bytes(random.Random(1).randbytes(path.stat().st_size)),
    "pipe": fifo,
    "folder": folder,
    "foreign": foreign,
    "other tables": tables_of_another_shape,
    "nonsense": rows_of_nonsense,
    "times": times_beyond_all_calendars,
    "link to nowhere": partial(link, target="/nowhere/at/all"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_registry_is_told_in_a_sentence(damaged: Home, how: str) -> None:
    before = surroundings(damaged)
    DAMAGES[how](damaged.registry)
    results = [told(damaged, *arguments) for arguments in READERS]
    if how not in ("empty", "nonsense", "times", "link to nowhere"):
        assert {result.code for result, arguments in zip(results, READERS, strict=True)
                if arguments[0] in ("sessions", "logs", "stop")} == {9}  # fmt: skip
    assert surroundings(damaged) == before


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_metrics_take_nothing_else_with_them(damaged: Home, how: str) -> None:
    for path in damaged.sessions.glob("*/metrics.db"):
        DAMAGES[how](path)
    results = {tuple(arguments): told(damaged, *arguments) for arguments in READERS}
    assert results["sessions",].code == 0
    assert results["status", "two", "--json"].code == 0
    assert results["status", "one"].code == 0


ODD = ["empty", "text", "pipe", "folder", "link to nowhere"]
SIDE_FILES = ["session.yaml", "log.jsonl", "lease", "checkpoints", "models"]


@pytest.mark.parametrize("name", SIDE_FILES)
@pytest.mark.parametrize("how", [*ODD, "loop", "deep", "huge line"])
def test_a_damaged_file_of_a_session_is_told_in_a_sentence(damaged: Home, name: str, how: str) -> None:
    extra: dict[str, Callable[[Path], object]] = {
        "loop": lambda path: link(path, path),
        "deep": lambda path: path.write_bytes(b"[" * 200_000 + b"\n"),
        "huge line": lambda path: path.write_bytes(b'{"message": "' + b"x" * 3_000_000),
    }
    for session in damaged.sessions.iterdir():
        (extra | DAMAGES)[how](session / name)
    for arguments in LOOKS:
        told(damaged, *arguments)


@pytest.mark.parametrize("name", ["sessions", "trash", "cache", "settings.yaml", "cleanup.lock"])
@pytest.mark.parametrize("how", ODD)
def test_a_damaged_part_of_the_home_is_told_in_a_sentence(damaged: Home, name: str, how: str) -> None:
    path = damaged.root / name
    shutil.rmtree(path, ignore_errors=True)
    DAMAGES[how](path)
    for arguments in LOOKS:
        told(damaged, *arguments)


@pytest.mark.parametrize("state", ["interrupted", "running"])
def test_an_id_that_leads_out_of_the_home_is_told_in_a_sentence(damaged: Home, state: str) -> None:
    victim = damaged.root.parent / "victim"
    victim.mkdir()
    (victim / "session.yaml").write_text("name: bait", "utf-8")
    with closing(open_writer(damaged.registry, synchronous="FULL", wal_autocheckpoint=1000)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        sql = "UPDATE session SET id = '../../victim', state = ?, lease = 'x' WHERE name = 'one'"
        connection.execute(sql, [state]).close()
    before = surroundings(damaged)
    for arguments in [*READERS, ["trash", "empty"]]:
        told(damaged, *arguments)
    found = invoke(damaged, "audit")
    assert found.code == 1
    assert "has the id '../../victim', which Forge never makes" in found.out
    for host in ("thread", "process"):
        result = told(damaged, "resume", "one", "--host", host)
        assert result.code == 9
        assert "the id '../../victim', which Forge never makes" in result.err
    assert told(damaged, "resume", "one", "--detach").code == 9
    assert surroundings(damaged) == before


@pytest.mark.parametrize("name", [".", "log.jsonl", "metrics.db", "lease", "checkpoints", "models"])
def test_a_session_is_not_resumed_through_a_link(damaged: Home, name: str) -> None:
    with Registry.open(damaged) as registry:
        session = registry.fetch(queries.find_sessions("one"))[0].id
    outside = damaged.root.parent / "outside"
    path = damaged.sessions / session / name
    if path.exists():
        path.rename(outside)
    else:
        outside.mkdir()
    path.symlink_to(outside)
    before = surroundings(damaged)
    for arguments in (["resume", "one", "--host", "thread"], ["resume", "one", "--detach"]):
        result = told(damaged, *arguments)
        assert result.code == 1
        assert "is a symbolic link, which Forge never makes" in result.err or name == "lease"
    assert surroundings(damaged) == before


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=12
    ),
    which=st.sampled_from(["registry", "metrics"]),
    arguments=st.sampled_from(READERS),
)
def test_flipped_bytes_are_told_or_harmless(
    pristine: Home, tmp_path: Path, flips: list[tuple[float, int]], which: str, arguments: list[str]
) -> None:
    home = Home(tmp_path / "flipped")
    shutil.rmtree(home.root, ignore_errors=True)
    shutil.copytree(pristine.root, home.root)
    for path in [home.registry] if which == "registry" else home.sessions.glob("*/metrics.db"):
        data = bytearray(path.read_bytes())
        for place, value in flips:
            data[int(place * len(data))] ^= value
        path.write_bytes(data)
    told(home, *arguments)
