"""What only looks like Forge's is not tidied: what a link leads to, and names that are almost its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forge.engine import Engine, checkpoint
from forge.engine.engine import Where
from forge.errors import ForgeError
from forge.registry import State
from forge.retention import folders, reconcile, steps, tidy
from tests.unit.retention.conftest import NOW, World, session_id, tree

OLD = NOW - 2 * tidy.SETTLED_SECONDS
HEX = "0123456789abcdef" * 2
NAMES = [
    f"step-00000001.tmp-{session_id(3)}", f"{session_id(3)}.tmp", f".{HEX}.tmp-0a1b2c3d",
    f".metrics.db.new-{HEX}", f"damaged-{session_id(3)}-step-00000001",
    f"damaged-{session_id(4)}-step-00000001",
]  # fmt: skip
"""What Forge deletes where it made it."""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A stranger's folder in which everything has a name that Forge gives what it deletes."""
    folder = tmp_path / "outside"
    for place in (folder, folder / "pretrain"):
        for name in [*NAMES, "step-00000001", "step-00000002", "step-00000003"]:
            (place / name).mkdir(parents=True)
            (place / name / "thesis").write_text("precious")
            os.utime(place / name, (OLD, OLD))
    return folder


def linked(world: World, id: str, name: str, outside: Path) -> Path:
    """Put a link in the place of a folder that Forge makes."""
    root = world.home.root if name == "cache" else world.home.session(id).root
    place = root / name
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(world.home.root / "elsewhere")
    place.symlink_to(outside)
    return place


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/pretrain", "models", "cache", "session"])
def test_nothing_is_tidied_through_a_link(world: World, outside: Path, name: str) -> None:
    id = world.add(1, State.INTERRUPTED)
    if name == "session":
        root = world.home.session(id).root
        root.rename(outside / "session")
        root.symlink_to(outside / "session")
        (outside / "session" / "checkpoints").mkdir()
        (outside / "pretrain").rename(outside / "session" / "checkpoints" / "pretrain")
    else:
        linked(world, id, name, outside)
    before = tree(outside)
    found = reconcile(world.home, world.registry, NOW)
    assert tree(outside) == before
    assert found.repaired == []
    paths, says = world.home.session(id), tidy.known(world.registry.fetch)[id]
    if name not in ("cache", "session"):
        assert tidy.garbage(paths) == []
        assert not says.loose(paths).to_do
        assert "is a symbolic link, which Forge never makes" in found.problems[0]
    assert tidy.half_cached(world.home.cache) == []


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/pretrain"])
def test_no_checkpoint_is_removed_or_renamed_through_a_link(world: World, outside: Path, name: str) -> None:
    id = world.add(1, State.INTERRUPTED)
    linked(world, id, name, outside)
    folder, before = world.home.session(id).checkpoints("pretrain"), tree(outside)
    assert (folder / "step-00000003").is_dir()
    assert steps.remove_leftovers(folder) == 0
    assert checkpoint.rotate(folder, 2) == []
    assert checkpoint.load_latest(folder, lambda step, reason: pytest.fail(reason)) is None
    assert tree(outside) == before


@pytest.mark.parametrize(
    "name",
    ["checkpoints", "checkpoints/pretrain", "models", "log.jsonl", "log.jsonl.1", "metrics.db",
     "metrics.db-wal", "lease", "session"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["thread", "process"])
def test_a_session_with_a_link_in_it_is_not_run(world: World, outside: Path, name: str, where: Where) -> None:
    id = world.add(1, State.INTERRUPTED)
    if name == "session":
        root = world.home.session(id).root
        root.rename(outside / "session")
        root.symlink_to(outside / "session")
    else:
        linked(world, id, name, outside)
    before = tree(outside)
    program = Engine(world.home)
    with pytest.raises(ForgeError, match="is a symbolic link, which Forge never makes"):
        program.resume(id, where)
    program.shutdown()
    assert tree(outside) == before
    assert world.states() == {id: State.INTERRUPTED}


STRANGERS = [
    "thesis.tmp", "thesis.tmp-2024", "report.tmp-old", "step-00000001.tmp-old", f"{session_id(3)}.tmp.tmp",
    "damaged-goods", "damaged-", f"x{session_id(3)}.tmp", ".metrics.db.new-mine", ".metrics.db.vacation.tmp",
    ".thesis.tmp-1", f".{HEX}.tmp-mine", "step-1.tmp-01X",
]  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_name_that_is_almost_one_of_forge_s_is_a_stranger_s(world: World, name: str, kind: str) -> None:
    id = world.add(1, State.INTERRUPTED)
    paths = world.home.session(id)
    pretrain = paths.checkpoints("pretrain")
    pretrain.mkdir(parents=True)
    for place in (world.home.root, world.home.sessions, world.home.cache, paths.root, paths.models, pretrain):
        if kind == "folder":
            (place / name).mkdir()
            (place / name / "card.json").write_text('{"phase": "pretrain"}')
        else:
            (place / name).write_text("precious")
    before = tree(paths.root), tree(world.home.cache), tree(world.home.sessions)
    assert reconcile(world.home, world.registry, NOW).repaired == []
    assert steps.remove_leftovers(pretrain) == 0
    assert checkpoint.rotate(pretrain, 2) == []
    assert (tree(paths.root), tree(world.home.cache), tree(world.home.sessions)) == before
    assert (world.home.root / name).exists()


def test_what_forge_left_is_deleted_where_it_made_it(world: World) -> None:
    id = world.add(1, State.INTERRUPTED)
    paths = world.home.session(id)
    pretrain = paths.checkpoints("pretrain")
    made = [pretrain / NAMES[0], paths.models / NAMES[1], world.home.cache / NAMES[2], paths.root / NAMES[3]]
    for path in made:
        path.mkdir(parents=True)
    assert len(reconcile(world.home, world.registry, NOW).repaired) == len(made)
    assert not [path for path in made if path.exists()]
    for name in NAMES[4:]:
        (pretrain / name).mkdir()
    checkpoint.rotate(pretrain, 2)
    assert [path.name for path in steps.damaged(pretrain)] == [NAMES[5]]


def test_a_folder_that_cannot_be_looked_into_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    paths = world.home.session(world.add(1))
    monkeypatch.setattr(Path, "is_symlink", refuse)
    with pytest.raises(folders.NotOursError, match="cannot be looked at: Permission denied"):
        folders.check_inside(paths)
