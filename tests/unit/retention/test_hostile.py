"""Folders, links and ids that are not what they seem: refused, and nothing outside is touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forge.home import is_id
from forge.registry import Registry, State, cleanup, edits
from forge.retention import (
    Plan,
    SessionCleanupPolicy,
    Verdict,
    execute,
    folders,
    plan,
    purge,
    reconcile,
    undo,
)
from forge.retention.folders import NotOursError
from tests.unit.retention.conftest import NOW, YAML, World, session_id, tree

POLICY = SessionCleanupPolicy(max_sessions_retained=0, max_age_days=None)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that looks like a session's, outside the home."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "session.yaml").write_text("name: bait")
    (folder / "precious").write_text("x")
    return folder


def forced(world: World) -> Plan:
    """A plan that wants to trash everything, whatever it found."""
    found = plan(world.home, world.registry, POLICY, NOW)
    assert all(d.verdict is Verdict.KEEP for d in found.decisions)
    assert all(d.reason.startswith("left alone: ") for d in found.decisions)
    return Plan(POLICY, NOW, tuple(replace(d, verdict=Verdict.TRASH) for d in found.decisions))


def link(root: Path, outside: Path) -> None:
    root.symlink_to(outside)


def dangling(root: Path, outside: Path) -> None:
    root.symlink_to(outside / "nothing")


def unmarked(root: Path, outside: Path) -> None:
    root.mkdir()
    (root / "precious").write_text("x")


def marked_by_a_link(root: Path, outside: Path) -> None:
    root.mkdir()
    (root / "session.yaml").symlink_to(outside / "session.yaml")


def marked_by_a_folder(root: Path, outside: Path) -> None:
    (root / "session.yaml").mkdir(parents=True)


def a_file(root: Path, outside: Path) -> None:
    root.write_text("x")


FOLDERS = [link, dangling, unmarked, marked_by_a_link, marked_by_a_folder, a_file]


@pytest.mark.parametrize("make", FOLDERS)
def test_a_folder_that_is_not_a_session_s_is_not_moved(
    world: World, outside: Path, make: Callable[[Path, Path], None]
) -> None:
    id = world.add(1)
    root = world.home.session(id).root
    root.rename(world.home.root / "elsewhere")
    make(root, outside)
    before = tree(outside), tree(world.home.root / "sessions")
    outcome = execute(world.home, world.registry, forced(world), actor="me", now=NOW)
    assert outcome.trashed == ()
    assert world.states() == {id: State.COMPLETED}
    assert (tree(outside), tree(world.home.root / "sessions")) == before
    with pytest.raises(NotOursError):
        folders.check(root)


@pytest.mark.parametrize("make", FOLDERS)
def test_a_folder_that_is_not_a_session_s_is_not_deleted(
    world: World, outside: Path, make: Callable[[Path, Path], None]
) -> None:
    id = world.add(1)
    execute(world.home, world.registry, plan(world.home, world.registry, POLICY, NOW), actor="me", now=NOW)
    root = world.home.trashed(id).root
    root.rename(world.home.root / "elsewhere")
    make(root, outside)
    before = tree(outside), tree(world.home.trash)
    rows = world.registry.fetch(cleanup.trash())
    purged = purge(world.home, world.registry, rows, actor="me", now=NOW)
    assert len(purged.skipped) == 1
    assert (tree(outside), tree(world.home.trash)) == before
    assert not world.registry.fetch(cleanup.trash())[0].purging
    # Nor when the registry claims that its deletion has begun.
    world.registry.write(lambda c: cleanup.begin_purge(c, id, actor="me", path="", now=NOW))
    assert len(reconcile(world.home, world.registry, NOW).problems) == 1
    assert (tree(outside), tree(world.home.trash)) == before


def test_an_unknown_folder_that_is_a_link_is_not_adopted(world: World, outside: Path) -> None:
    (outside / "session.yaml").write_bytes(YAML)
    os.utime(outside / "session.yaml", (NOW - 9999, NOW - 9999))
    for parent in (world.home.sessions, world.home.trash):
        (parent / session_id(1)).symlink_to(outside)
        assert "is not a folder but a link" in reconcile(world.home, world.registry, NOW).problems[0]
        assert world.states() == {}
        (parent / session_id(1)).unlink()


BAIT = session_id(77)


@pytest.mark.parametrize(
    "id",
    [f"../../{BAIT}", f"../../outside/../{BAIT}", "/BAIT", "../../outside", "..", ".", "", "a/b", "otter",
     session_id(1).lower(), session_id(1) + "\n"],
)  # fmt: skip
def test_an_id_that_forge_does_not_make_is_refused(world: World, outside: Path, id: str) -> None:
    """Even one that leads to a folder which looks exactly like a session's."""
    bait = world.folder(BAIT, parent=outside.parent)
    id = str(bait) if id == "/BAIT" else id
    world.registry.write(
        lambda c: edits.create_session(c, id=id, name="evil", preset="tiny", phases=[], now=1.0)
    )
    before = tree(outside), tree(bait), tree(world.home.sessions)
    outcome = execute(world.home, world.registry, forced(world), actor="me", now=NOW)
    assert outcome.trashed == ()
    assert world.states() == {id: State.CREATED}
    # Even where the registry says that it was trashed, and then that it is half deleted.
    world.registry.write(
        lambda c: cleanup.trash_session(c, id, actor="me", reason="r", bytes=0, path="", now=NOW)
    )
    rows = world.registry.fetch(cleanup.trash())
    assert purge(world.home, world.registry, rows, actor="me", now=NOW).sessions == ()
    with pytest.raises(NotOursError):
        undo(world.home, world.registry, id, actor="me", now=NOW)
    world.registry.write(lambda c: cleanup.begin_purge(c, id, actor="me", path="", now=NOW))
    assert "is not an id that Forge makes" in reconcile(world.home, world.registry, NOW).problems[0]
    assert (tree(outside), tree(bait), tree(world.home.sessions)) == before


@pytest.mark.parametrize("which", ["sessions", "trash"])
def test_a_folder_of_the_home_that_leads_elsewhere_is_not_followed(
    world: World, tmp_path: Path, which: str
) -> None:
    id = world.add(1)
    real = tmp_path / "real"
    (world.home.root / which).rename(real)
    (world.home.root / which).symlink_to(real)
    outcome = execute(
        world.home, world.registry, plan(world.home, world.registry, POLICY, NOW), actor="me", now=NOW
    )
    assert outcome.trashed == ()
    assert world.states() == {id: State.COMPLETED}


def test_a_lease_that_is_a_link_is_not_followed(world: World, outside: Path) -> None:
    id = world.add(1)
    lease = world.home.session(id).lease
    lease.unlink()
    lease.symlink_to(outside / "made-by-forge")
    outcome = execute(world.home, world.registry, forced(world), actor="me", now=NOW)
    assert outcome.trashed == ()
    assert not (outside / "made-by-forge").exists()


def test_a_mounted_folder_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    id = world.add(1)
    root, real = world.home.session(id).root, Path.lstat
    foreign = {root}

    def lstat(self: Path) -> os.stat_result:
        found = real(self)
        values = list(found)
        values[2] += self in foreign  # st_dev
        return os.stat_result(values)

    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(NotOursError, match="another file system, mounted there"):
        folders.check(root)
    foreign.clear()
    folders.check(root)
    foreign.add(world.home.trash)
    with pytest.raises(NotOursError, match="on another file system than"):
        folders.check_move(root, world.home.trashed(id).root)
    # What lies inside is asked through its folder's entries, so the folder is the one that differs.
    foreign.add(root)
    with pytest.raises(NotOursError, match="another file system, mounted there"):
        folders.measure(root)


def test_ids() -> None:
    assert is_id(session_id(1))
    assert not is_id("8" + session_id(1)[1:])  # beyond 128 bits
    assert not is_id(session_id(1)[:-1] + "U")


def test_ten_thousand_sessions_cost_two_queries(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 10_000
    for number in range(count):
        root = world.home.session(session_id(number)).root
        root.mkdir()
        (root / "session.yaml").write_text("x")
    rows = [
        (session_id(n), f"s{n}", "completed", "tiny", float(n), NOW - n, NOW - n, "", 0) for n in range(count)
    ]
    columns = "id, name, state, preset, created_at, updated_at, ended_at, note, pinned"
    insert = f"INSERT INTO session ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    world.registry.write(lambda c: c.executemany(insert, rows).rowcount)
    asked: list[object] = []
    real = Registry.fetch

    def counted(self: Registry, query: object) -> object:
        asked.append(query)
        return real(self, query)  # type: ignore[arg-type]

    monkeypatch.setattr(Registry, "fetch", counted)
    found = plan(world.home, world.registry, SessionCleanupPolicy(max_total_gb=5e-6), NOW)
    assert len(found.decisions) == count
    assert len(found.to_keep) == 10
    assert len(asked) == 2


def test_a_size_is_measured_while_files_come_and_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    root = world.home.session(world.add(1)).root
    before = folders.measure(root).bytes
    gone = root / "checkpoint"
    gone.write_bytes(b"x" * 50)
    real = os.scandir

    def scandir(path: Path) -> object:
        found = real(path)
        if path == root:
            gone.unlink()
        return found

    monkeypatch.setattr(os, "scandir", scandir)
    assert folders.measure(root).bytes == before
