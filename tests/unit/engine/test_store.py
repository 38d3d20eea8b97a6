"""Models on disk: whole or absent, and never taken for another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forge import durable
from forge.contract import ProducedModel
from forge.engine.store import ModelStore, verified_folder
from forge.errors import CheckpointError, ForgeError
from forge.models.decoder import Decoder
from forge.registry import ModelRow, cleanup, edits, queries
from forge.validate.disk import Disk
from tests.unit.engine.rig import PICO, Rig

HALF = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture
def store(rig: Rig) -> ModelStore:
    return ModelStore(rig.registry, rig.session_id, rig.paths)


@pytest.fixture
def produced(tmp_path: Path) -> ProducedModel:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text('{"a": 1}')
    model = Decoder(PICO).initialise(torch.Generator().manual_seed(0))
    card = {"corpus": "stdlib", "id": "mine", "phase": "other", "sha256": "0"}
    return ProducedModel("plain", model, PICO, tokenizer, {"test_bpb": 1.5}, {"01PARENT": 1.0}, card)


def record(rig: Rig, row: ModelRow) -> ModelRow:
    rig.registry.write(lambda c: edits.add_model(c, row, {"01PARENT": 1.0}))
    return row


def test_a_model_comes_back_as_it_was(store: ModelStore, rig: Rig, produced: ProducedModel) -> None:
    row = record(rig, store.save("pretrain", produced))
    assert row.path == f"models/{row.id}"
    assert row.parameters == sum(tensor.numel() for tensor in produced.module.state_dict().values())
    folder = rig.paths.root / row.path
    assert row.bytes == sum(file.stat().st_size for file in folder.iterdir())
    (loaded,) = store.load("pretrain")
    assert (loaded.id, loaded.config) == (row.id, PICO)
    assert loaded.tokenizer.read_text() == '{"a": 1}'
    for name, tensor in produced.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor)


def test_the_card_says_what_the_engine_knows_whatever_a_phase_puts_in(
    store: ModelStore, rig: Rig, produced: ProducedModel
) -> None:
    row = store.save("pretrain", produced)
    card = json.loads((rig.paths.model(row.id) / "card.json").read_text())
    assert (card["id"], card["phase"], card["session"]) == (row.id, "pretrain", rig.session_id)
    assert (card["corpus"], card["parents"]) == ("stdlib", {"01PARENT": 1.0})
    assert len(card["sha256"]) == 64


def test_models_come_oldest_first_and_only_of_their_phase(
    store: ModelStore, rig: Rig, produced: ProducedModel
) -> None:
    first, second = (record(rig, store.save("pretrain", produced)) for _ in range(2))
    record(rig, store.save("forging", produced))
    assert [loaded.id for loaded in store.load("pretrain")] == [first.id, second.id]


def test_what_the_others_came_from_is_kept_and_not_handed_on(
    store: ModelStore, rig: Rig, produced: ProducedModel
) -> None:
    base = replace(produced, name="base")
    branches = [replace(produced, name=name, parents={"base": 1.0}) for name in ("left", "right")]
    saved = store.save_all("pretrain", [base, *branches])
    for row, parents in saved:
        rig.registry.write(lambda c, row=row, of=parents: edits.add_model(c, row, of))  # type: ignore[misc]
    base_id = saved[0][0].id
    handed_on = store.load("pretrain")
    assert [model.card["name"] for model in handed_on] == ["left", "right"]
    assert [model.card["parents"] for model in handed_on] == [{base_id: 1.0}, {base_id: 1.0}]
    assert saved[0][1] == {"01PARENT": 1.0}
    for model in handed_on:
        assert rig.registry.fetch(queries.model_parents(model.id)) == [(base_id, 1.0)]
    assert (rig.paths.model(base_id) / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "card.json"])
@pytest.mark.parametrize("what", ["missing", "cut", "empty"])
def test_a_model_that_is_not_what_it_was_is_named(
    store: ModelStore, rig: Rig, produced: ProducedModel, name: str, what: str
) -> None:
    row = record(rig, store.save("pretrain", produced))
    path = rig.paths.model(row.id) / name
    data = path.read_bytes()
    path.unlink()
    if what != "missing":
        path.write_bytes(data[: len(data) // 2] if what == "cut" else b"")
    with pytest.raises(CheckpointError) as caught:
        store.load("pretrain")
    message = str(caught.value)
    assert message.startswith('the model "plain" of phase pretrain cannot be read: ')
    assert f"Put {path.parent} back from a copy, then resume" in message


def test_weights_with_one_bit_turned_are_refused(
    store: ModelStore, rig: Rig, produced: ProducedModel
) -> None:
    path = rig.paths.model(record(rig, store.save("pretrain", produced)).id) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="does not have the hash that its card says"):
        store.load("pretrain")


def test_a_completed_phase_without_models_is_said_so(store: ModelStore) -> None:
    with pytest.raises(ForgeError, match="pretrain is completed but its models are not in the registry"):
        store.load("pretrain")


def test_only_what_is_half_done_of_the_phase_is_deleted_and_written_down(
    store: ModelStore, rig: Rig, produced: ProducedModel, tmp_path: Path
) -> None:
    known = record(rig, store.save("pretrain", produced))
    whole, damaged = (store.save("pretrain", produced) for _ in range(2))
    other = store.save("forging", produced)
    for row in (damaged, other):
        (rig.paths.model(row.id) / "model.safetensors").write_bytes(b"cut")
    models = rig.paths.root / "models"
    (models / f"{HALF}.tmp").mkdir()
    (models / "notes").mkdir()
    (tmp_path / "precious").mkdir()
    (models / "link").symlink_to(tmp_path / "precious")
    assert sorted(store.remove_orphans("pretrain")) == sorted([damaged.id, f"{HALF}.tmp"])
    assert {entry.name for entry in models.iterdir()} == {known.id, whole.id, other.id, "notes", "link"}
    rows = rig.registry.fetch(cleanup.audit(10, rig.session_id))
    assert {(row.action, row.path) for row in rows} == {
        ("tidy", f"sessions/{rig.session_id}/models/{name}") for name in (damaged.id, f"{HALF}.tmp")
    }


def test_without_models_there_are_no_orphans(store: ModelStore) -> None:
    assert store.remove_orphans("pretrain") == []


def test_a_crash_while_writing_leaves_no_model(
    store: ModelStore, rig: Rig, produced: ProducedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(durable, "move", crash)
    with pytest.raises(KeyboardInterrupt):
        store.save("pretrain", produced)
    monkeypatch.undo()
    (left,) = (rig.paths.root / "models").iterdir()
    assert left.name.endswith(".tmp")
    store.remove_orphans("pretrain")
    assert list((rig.paths.root / "models").iterdir()) == []


def test_a_model_that_is_asked_for_by_its_id_is_looked_at_first(
    store: ModelStore, rig: Rig, produced: ProducedModel
) -> None:
    folder = rig.paths.model(store.save("pretrain", produced).id)
    assert verified_folder(rig.paths, folder.name) == folder
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"the model {folder.name} cannot be read: .*from a copy"):
        verified_folder(rig.paths, folder.name)
    for stranger, reason in ((HALF, "No such file"), ("../../other", "no model has such an id")):
        with pytest.raises(CheckpointError, match=f"the model {stranger} cannot be read: .*{reason}"):
            verified_folder(rig.paths, stranger)


def test_the_name_that_a_killed_process_left_of_the_folder_outlives_a_cut(
    store: ModelStore, rig: Rig, produced: ProducedModel
) -> None:
    disk = Disk(rig.paths.root)
    with disk.recording():
        durable.make_scratch(rig.paths.models)  # killed before it could sync the name
        store.remove_orphans("pretrain")
        row = store.save("pretrain", produced)
    assert disk.final
    assert all(f"models/{row.id}/card.json" in image.files for image in disk.final)
