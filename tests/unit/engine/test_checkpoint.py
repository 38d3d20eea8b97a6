"""A checkpoint is whole or it is skipped, wherever a crash or a flipped bit hit it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forge import durable
from forge.engine import checkpoint as checkpoints
from forge.engine.checkpoint import DamagedError, Meta
from forge.errors import CheckpointError
from forge.retention import steps

META = Meta({"loss": 7, "val": 5}, {"threads": 2, "device": "cpu"}, 12.5)


def state(value: float) -> dict[str, Any]:
    model = {
        "weight": torch.full((3, 4), float(value)),
        "bias": torch.full((4,), float(value), dtype=torch.bfloat16),
    }
    inner = {"model": model, "optimizers": {"moment": torch.full((3, 4), -float(value)), 0: [1, (2, 3)]}}
    return {"state": inner, "generators": {"python": (3, (1, 2, 3), None)}}


def value_of(found: checkpoints.Checkpoint | None) -> float:
    assert found is not None
    return float(found.state["state"]["model"]["weight"][0, 0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoints of steps 5 and 10; each holds its own step in every weight."""
    place = tmp_path / "checkpoints" / "pretrain"
    for step in (5, 10):
        checkpoints.save(place, step, state(step), META)
    return place


def unexpected(step: int, reason: str) -> None:
    pytest.fail(f"step {step} was skipped: {reason}")


def newest(folder: Path) -> tuple[float, list[int]]:
    skipped: list[int] = []
    found = checkpoints.load_latest(folder, lambda step, reason: skipped.append(step))
    return value_of(found), skipped


def test_what_was_saved_is_loaded(folder: Path) -> None:
    found = checkpoints.load_latest(folder, unexpected)
    assert found is not None
    assert (found.step, found.meta) == (10, META)
    assert found.state["generators"] == {"python": (3, (1, 2, 3), None)}
    assert found.state["state"]["optimizers"][0] == [1, (2, 3)]
    assert torch.equal(found.state["state"]["model"]["bias"], torch.full((4,), 10.0, dtype=torch.bfloat16))
    names = sorted(entry.name for entry in found.path.iterdir())
    assert names == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert {entry.stat().st_mode & 0o777 for entry in found.path.iterdir()} == {0o600}
    assert found.path.stat().st_mode & 0o777 == 0o700


def test_the_weights_have_a_file_that_others_can_read(folder: Path) -> None:
    from safetensors.torch import load_file

    assert set(load_file(folder / "step-00000010" / "model.safetensors")) == {"weight", "bias"}


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert checkpoints.load_latest(tmp_path / "none", unexpected) is None
    assert checkpoints.newest_runtime(tmp_path / "none") is None
    assert steps.remove_leftovers(tmp_path / "none") == 0


@pytest.mark.parametrize("name", ["manifest.json", *checkpoints.FILES])
def test_cut_short_anywhere_it_is_skipped(folder: Path, tmp_path: Path, name: str) -> None:
    size = (folder / "step-00000010" / name).stat().st_size
    for keep in sorted({0, 1, size // 3, size // 2, size - 9, size - 1}):
        copy = tmp_path / f"cut-{keep}"
        shutil.copytree(folder, copy)
        os.truncate(copy / "step-00000010" / name, keep)
        assert newest(copy) == (5, [10])


@pytest.mark.parametrize("name", ["manifest.json", *checkpoints.FILES])
def test_a_flipped_bit_anywhere_is_found_or_harmless(folder: Path, name: str) -> None:
    path = folder / "step-00000010"
    whole = (path / name).read_bytes()
    before = checkpoints.load(path)
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        (path / name).write_bytes(altered)
        try:
            after = checkpoints.load(path)
        except DamagedError:
            continue
        # Only blanks between the manifest's values may differ unnoticed.
        assert name == "manifest.json"
        assert (after.step, after.meta) == (before.step, before.meta)
    (path / name).write_bytes(whole)
    assert value_of(checkpoints.load(path)) == 10


def test_more_than_it_should_be_is_damage_too(folder: Path) -> None:
    with open(folder / "step-00000010" / "state.json", "ab") as file:
        file.write(b" ")
    assert newest(folder) == (5, [10])


@pytest.mark.parametrize("name", ["manifest.json", *checkpoints.FILES])
def test_a_missing_file_is_damage(folder: Path, name: str) -> None:
    (folder / "step-00000010" / name).unlink()
    assert newest(folder) == (5, [10])


def test_an_extra_file_is_none_of_its_business(folder: Path) -> None:
    (folder / "step-00000010" / ".model.safetensors.swp").write_bytes(b"\0")
    assert newest(folder) == (10, [])


def test_a_checkpoint_under_another_name_is_refused(folder: Path) -> None:
    (folder / "step-00000010").rename(folder / "step-00000011")
    assert newest(folder) == (5, [11])


def test_a_manifest_of_another_step_is_refused(folder: Path) -> None:
    shutil.copy(folder / "step-00000005" / "manifest.json", folder / "step-00000010")
    assert newest(folder) == (5, [10])


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter the manifest of step 10 and make its checksum right again."""
    path = folder / "step-00000010" / "manifest.json"
    body = json.loads(path.read_bytes())
    del body["checksum"]
    change(body)
    path.write_text(json.dumps({**body, "checksum": checkpoints._checksum(body)}))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["files"].update({"../step-00000005/state.json": body["files"].pop("state.json")}),
        lambda body: body["files"].update({"state.json": {"bytes": -1, "sha256": "x"}}),
        lambda body: body["files"].update({"state.json": {"bytes": "many", "sha256": "x"}}),
        lambda body: body["files"].update({"state.json": 5}),
        lambda body: body.update(files=[]),
        lambda body: body.update(last_steps=[1]),
        lambda body: body.update(last_steps={"loss": "x"}),
        lambda body: body.update(seconds=None),
        lambda body: body.update(step=11),
        lambda body: body.pop("runtime"),
    ],
)
def test_a_hostile_manifest_is_refused_and_nothing_outside_is_read(
    folder: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    rewrite(folder, change)
    assert newest(folder) == (5, [10])


def test_names_in_a_manifest_lead_nowhere(folder: Path) -> None:
    outside = folder.parent / "secret"
    outside.write_bytes(b"secret")
    rewrite(folder, lambda body: body["files"].update({"../../secret": {"bytes": 6, "sha256": "x"}}))
    assert newest(folder) == (10, [])  # only the files of a checkpoint are ever opened


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"a": 1}', "[" * 100_000, "\xff", '{"checksum": 1}', "1" * 5000]
)
def test_a_manifest_that_is_none_is_damage(folder: Path, text: str) -> None:
    (folder / "step-00000010" / "manifest.json").write_text(text, encoding="latin-1")
    assert newest(folder) == (5, [10])


def test_a_symbolic_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    file = folder / "step-00000010" / "state.json"
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    assert newest(folder) == (5, [10])
    (folder / "step-00000005").rename(tmp_path / "moved")
    (folder / "step-00000005").symlink_to(tmp_path / "moved")
    assert checkpoints.load_latest(folder, lambda step, reason: None) is None
    assert (tmp_path / "moved" / "manifest.json").exists()


def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    (folder / "step-00000010" / "state.json").unlink()
    os.mkfifo(folder / "step-00000010" / "state.json")
    assert newest(folder) == (5, [10])


def test_a_damaged_one_is_set_aside_and_never_counted_again(folder: Path) -> None:
    (folder / "step-00000010" / "state.json").unlink()
    assert newest(folder) == (5, [10])
    assert newest(folder) == (5, [])
    checkpoints.save(folder, 7, state(7), META)
    assert checkpoints.rotate(folder, 2) == []
    assert steps.steps_in(folder) == [7, 5]
    assert [e.name[-13:] for e in folder.iterdir() if e.name.startswith("damaged-")] == ["step-00000010"]


def test_what_was_set_aside_does_not_pile_up(folder: Path) -> None:
    for step in (20, 21, 22):
        checkpoints.save(folder, step, state(step), META)
        (folder / f"step-{step:08d}" / "state.json").unlink()
        newest(folder)
    checkpoints.rotate(folder, 2)
    assert [e.name[-13:] for e in folder.iterdir() if e.name.startswith("damaged-")] == ["step-00000022"]


def test_not_being_able_to_read_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, *arguments: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read: Too many open files.*nothing was changed"):
        checkpoints.load_latest(folder, unexpected)
    monkeypatch.undo()
    assert newest(folder) == (10, [])


def test_a_newer_format_is_not_skipped_but_named(folder: Path) -> None:
    rewrite(folder, lambda body: body.update(format=2))
    with pytest.raises(CheckpointError, match="format 2, this Forge reads 1"):
        checkpoints.load_latest(folder, unexpected)
    assert steps.steps_in(folder) == [10, 5]


def test_the_runtime_is_read_without_the_state(folder: Path) -> None:
    assert checkpoints.newest_runtime(folder) == META.runtime
    (folder / "step-00000010" / "manifest.json").write_text("{}")
    assert checkpoints.newest_runtime(folder) == META.runtime


# --- rotation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "left"), [(0, [4, 3]), (1, [4, 3]), (2, [4, 3]), (3, [4, 3, 2])])
def test_rotation_keeps_the_newest_and_never_fewer_than_two(
    tmp_path: Path, keep: int, left: list[int]
) -> None:
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, step, state(step), META)
    gone = checkpoints.rotate(tmp_path, keep)
    assert steps.steps_in(tmp_path) == left
    assert sorted(gone + left) == [1, 2, 3, 4]


def test_half_deleted_ones_are_not_counted_as_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, step, state(step), META)
    (tmp_path / "step-00000003" / "manifest.json").unlink()
    assert checkpoints.rotate(tmp_path, 2) == [3, 1]
    assert steps.steps_in(tmp_path) == [4, 2]


def test_rotation_never_reaches_through_a_link(tmp_path: Path) -> None:
    folder, outside = tmp_path / "checkpoints", tmp_path / "outside"
    for step in (1, 3, 4):
        checkpoints.save(folder, step, state(step), META)
    (folder / "step-00000001").rename(outside)
    (folder / "step-00000001").symlink_to(outside)
    (folder / "step-00000002").write_text("a file of that name")
    assert steps.finished_steps(folder) == [4, 3]
    assert checkpoints.rotate(folder, 2) == [2, 1]
    assert steps.steps_in(folder) == [4, 3]
    assert (outside / "manifest.json").exists()


# --- writing ------------------------------------------------------------------------------------------


def test_the_same_step_again_replaces_it(folder: Path) -> None:
    checkpoints.save(folder, 10, state(99), META)
    assert newest(folder) == (99, [])


def test_what_cannot_be_kept_is_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="object at state/odd"):
        checkpoints.save(folder, 11, {"state": {"odd": object()}}, META)
    assert [entry.name for entry in folder.iterdir() if "11" in entry.name] == []


def test_room_is_asked_for_with_the_true_size_before_anything_is_written(tmp_path: Path) -> None:
    def refuse(size: int) -> None:
        raise OSError(errno.ENOSPC, str(size))

    with pytest.raises(OSError, match=str(3 * 4 * 4 + 4 * 2 + 3 * 4 * 4)):
        checkpoints.save(tmp_path / "new", 1, state(1), META, refuse)
    assert list(tmp_path.iterdir()) == []


EFFECTS = ("write_file", "sync_folder", "make_folder", "make_scratch", "move")


def test_the_manifest_is_last_and_every_name_is_durable_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def effect(path: Path, *rest: Any) -> None:
            order.append(f"{name} {path.name.partition('.tmp-')[0]}")
            real(path, *rest)

        return effect

    for name in EFFECTS:
        monkeypatch.setattr(durable, name, noted(name, getattr(durable, name)))
    checkpoints.save(tmp_path / "new", 1, state(1), META)
    written = [f"write_file {name}" for name in (*checkpoints.FILES, "manifest.json")]
    ends = ["sync_folder step-00000001", "move step-00000001", "sync_folder new"]
    assert order[-7:] == [*written, *ends]


def test_a_disk_that_refuses_at_any_effect_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.write_file
    for number in range(1, 5):
        calls = 0

        def full(path: Path, data: bytes, mode: int = 0o600, limit: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == limit:
                real(path, data[: len(data) // 2], mode)
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            real(path, data, mode)

        monkeypatch.setattr(durable, "write_file", full)
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(folder, 11, state(11), META)
        monkeypatch.undo()
        assert sorted(entry.name for entry in folder.iterdir()) == ["step-00000005", "step-00000010"]
        assert newest(folder) == (10, [])
