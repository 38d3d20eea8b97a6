"""Whatever was left half done is finished, once; what nobody can know is said and left alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from forge import locks
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import Connection, State, cleanup, edits, queries
from forge.retention import Reconciled, SessionCleanupPolicy, execute, plan, reconcile, undo
from tests.unit.retention.conftest import NOW, World, names, session_id, tree

POLICY = SessionCleanupPolicy(max_sessions_retained=None, max_age_days=30)


def run(world: World) -> Reconciled:
    return reconcile(world.home, world.registry, NOW)


def mark(world: World, id: str) -> None:
    """The row says trashed; the folder has not moved."""
    world.registry.write(
        lambda c: cleanup.trash_session(c, id, actor="me", reason="old", bytes=1, path="", now=NOW)
    )


def settled(world: World) -> None:
    assert run(world) == Reconciled()


def age(folder: Path) -> None:
    """Make a folder an hour and a bit old."""
    os.utime(folder / "session.yaml", (NOW - 3601, NOW - 3601))


def test_nothing_to_do(world: World) -> None:
    world.add(1)
    version = world.registry.data_version()
    settled(world)
    assert world.registry.data_version() == version


def test_a_marked_session_is_moved(world: World) -> None:
    id = world.add(1)
    files = tree(world.home.session(id).root)
    mark(world, id)
    assert run(world).repaired == ["s1 is in the trash, as was begun"]
    world.agree()
    assert tree(world.home.trashed(id).root) == files
    settled(world)


def test_a_restored_session_is_moved_back(world: World) -> None:
    id = world.add(1, days=40)
    before = world.rows(id), tree(world.home.session(id).root)
    execute(world.home, world.registry, plan(world.home, world.registry, POLICY, NOW), actor="me", now=NOW)
    world.registry.write(lambda c: cleanup.restore_session(c, id, actor="me", path="", now=NOW))
    assert len(run(world).repaired) == 1
    world.agree()
    assert (world.rows(id), tree(world.home.session(id).root)) == before
    settled(world)


@pytest.mark.parametrize("left", ["all", "some", "marker", "empty", "nothing"])
def test_a_purge_is_finished(world: World, left: str) -> None:
    id = world.add(1)
    mark(world, id)
    run(world)
    world.registry.write(lambda c: cleanup.begin_purge(c, id, actor="me", path="", now=NOW))
    root = world.home.trashed(id).root
    if left != "all":
        (root / "log.jsonl").unlink()
    if left in ("marker", "empty", "nothing"):
        (root / "models" / "m" / "model.safetensors").unlink()
        (root / "models" / "m").rmdir()
        (root / "models").rmdir()
        (root / "lease").unlink()
        (root / "tail.bin").unlink()
    if left in ("empty", "nothing"):
        (root / "session.yaml").unlink()
    if left == "nothing":
        root.rmdir()
    assert run(world).repaired == ["s1 is deleted, as was begun"]
    assert world.states() == {}
    world.agree()
    settled(world)


def test_a_purge_does_not_go_on_in_a_folder_that_lost_its_marker(world: World) -> None:
    id = world.add(1)
    mark(world, id)
    run(world)
    world.registry.write(lambda c: cleanup.begin_purge(c, id, actor="me", path="", now=NOW))
    (world.home.trashed(id).root / "session.yaml").unlink()
    result = run(world)
    assert "has no session.yaml" in result.problems[0]
    assert "log.jsonl" in names(world.home.trashed(id).root)


def test_both_places_taken_is_left_to_a_person(world: World) -> None:
    id, other = world.add(1), world.add(2)
    mark(world, id)
    world.folder(id, parent=world.home.trash)
    world.folder(other, parent=world.home.trash)
    before = tree(world.home.root / "sessions"), tree(world.home.trash)
    result = run(world)
    assert result.repaired == []
    assert len(result.problems) == 2
    assert all("is there already" in problem for problem in result.problems)
    assert (tree(world.home.root / "sessions"), tree(world.home.trash)) == before


def test_missing_files_are_told_once(world: World) -> None:
    id = world.add(1)
    world.home.session(id).root.rename(world.home.root / "elsewhere")
    assert "is gone" in run(world).problems[0]
    settled(world)
    event = world.registry.fetch(queries.latest_events(id, 1))[0]
    assert (event.kind, event.level) == ("missing", "error")
    assert world.states() == {id: State.COMPLETED}


def test_an_unknown_folder_gets_its_session_back(world: World) -> None:
    ran, never, trashed = (session_id(n) for n in range(3))
    for id, parent in ((ran, None), (never, None), (trashed, world.home.trash)):
        age(world.folder(id, parent=parent))
    checkpoint = world.home.session(ran).root / "checkpoints" / "pretrain" / "step-00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    before = tree(world.home.sessions)
    # Three sessions, and the record of a checkpoint.
    assert len(run(world).repaired) == 4
    assert world.states() == {ran: State.INTERRUPTED, never: State.CREATED, trashed: State.TRASHED}
    world.agree()
    row = world.registry.one(queries.session(ran))
    assert row is not None
    assert (row.name, row.preset) == ("recovered-tiny", "tiny")
    assert [r.phase for r in world.registry.fetch(queries.phase_runs(ran))] == ["pretrain", "forging"]
    assert undo(world.home, world.registry, trashed, actor="me", now=NOW)[0].state is State.CREATED
    assert before.items() <= tree(world.home.sessions).items()
    settled(world)


def test_a_session_that_is_just_being_made_is_left_alone(world: World) -> None:
    os.utime(world.folder(session_id(1)) / "session.yaml", (NOW - 3599, NOW - 3599))
    settled(world)
    assert world.states() == {}


def test_what_is_not_a_session_is_left_alone(world: World) -> None:
    for name in ("notes", "..data", session_id(1).lower(), session_id(2) + ".old"):
        (world.home.sessions / name).mkdir()
        (world.home.trash / name).mkdir()
    before = tree(world.home.root / "sessions"), tree(world.home.trash)
    settled(world)
    assert (tree(world.home.root / "sessions"), tree(world.home.trash)) == before


def test_an_unreadable_configuration_is_a_problem_and_stops_nothing(world: World) -> None:
    bad, good = session_id(1), world.add(2)
    root = world.folder(bad)
    (root / "session.yaml").write_text("name: [")
    age(root)
    mark(world, good)
    result = run(world)
    assert result.repaired == ["s2 is in the trash, as was begun"]
    assert len(result.problems) == 1
    assert "not valid YAML" in result.problems[0]


def test_it_waits_for_nobody(world: World) -> None:
    with locks.hold(world.home.cleanup_lock), pytest.raises(ForgeError, match="another process"):
        run(world)


def test_a_registry_that_is_only_read_is_left_alone(world: World, tmp_path: Path) -> None:
    id = world.add(1)
    mark(world, id)
    world.registry.read_only = True
    settled(world)
    world.registry.read_only = False


def test_the_parts_of_a_home_are_not_confused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.trashed(session_id(1)).root == tmp_path / "trash" / session_id(1)
    assert home.cleanup_lock.parent == tmp_path


def test_a_crash_while_a_session_is_made_loses_nothing(world: World) -> None:
    """Folder first, row after: in between there is a folder that nobody knows."""
    id = session_id(5)
    root = world.folder(id)
    age(root)
    run(world)

    def create(c: Connection) -> str:
        return edits.create_session(c, id=id, name="late", preset="tiny", phases=[], now=NOW)

    with pytest.raises(ForgeError, match="already"):
        world.registry.write(create)
    world.agree()


def test_what_is_deleted_in_a_session_that_stays_is_written_down(world: World) -> None:
    id = world.add(1, State.INTERRUPTED, checkpoint=True)
    folder = world.home.session(id).checkpoints("pretrain")
    shutil.rmtree(folder / "step-00000004")
    half = folder / "step-00000008.tmp-01ARZ3NDEKTSV4RRFFQ69G5FAV"
    half.mkdir()
    (half / "state.json").write_bytes(b"{}")
    run(world)
    run(world)
    rows = world.registry.fetch(cleanup.audit(10))
    below = f"sessions/{id}/checkpoints/pretrain"
    assert [(row.action, row.actor, row.detail, row.bytes) for row in rows] == [
        ("checkpoint", "reconcile", "s1: checkpoint pretrain 4 was gone", 10),
        ("tidy", "reconcile", f"s1: {half.name} was left half done", 2),
    ]
    assert rows[1].path == f"{below}/{half.name}"
