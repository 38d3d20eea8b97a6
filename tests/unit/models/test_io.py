"""A saved decoder comes back bit for bit; a damaged one says what is wrong and with which file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forge.config import ModelConfig
from forge.errors import CheckpointError, NotFoundError
from forge.models.decoder import Decoder
from forge.models.io import load_decoder, load_weights
from forge.quant.linear import to_ternary
from tests.unit.models.saving import save_decoder

PICO = ModelConfig(vocab_size=260, d_model=32, n_layers=1, n_heads=2, d_ff=48, max_seq_len=16)
CPU = torch.device("cpu")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_decoder(Decoder(PICO).initialise(torch.Generator().manual_seed(0)), tmp_path)
    return tmp_path


def test_a_round_trip_keeps_every_bit(saved: Path) -> None:
    loaded = load_decoder(saved, CPU)
    original = Decoder(PICO).initialise(torch.Generator().manual_seed(0))
    assert loaded.config == PICO
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_the_tied_table_is_written_once(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    tables = [name for name, value in tensors.items() if PICO.vocab_size in value.shape]
    assert tables == ["embedding.weight"]
    assert set(tensors) == {name for name, _ in Decoder(PICO).named_parameters()}


def test_a_ternary_model_and_a_plain_one_are_interchangeable(saved: Path, tmp_path: Path) -> None:
    ternary = load_decoder(saved, CPU)
    to_ternary(ternary)
    folder = tmp_path / "ternary"
    folder.mkdir()
    save_decoder(ternary, folder)
    assert (folder / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    load_weights(ternary, saved / "model.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file_is_a_clear_error(saved: Path, keep: int) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated"):
        load_decoder(saved, CPU)


def test_weights_of_another_shape_are_named(saved: Path) -> None:
    other = Decoder(PICO.model_copy(update={"d_ff": 64, "n_layers": 2}))
    with pytest.raises(CheckpointError, match=r"blocks\.0\.ffn.*is \(48, 32\), expected \(64, 32\).*more"):
        load_weights(other, saved / "model.safetensors")


def test_missing_files_are_named(saved: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        load_decoder(saved / "nowhere", CPU)
    (saved / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match=r"model\.safetensors"):
        load_decoder(saved, CPU)


@pytest.mark.parametrize("text", ["", "{", '{"depth": 3}', '{"n_layers": 0}', "[]", "\xff"])
def test_a_damaged_configuration_is_a_clear_error(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text, "latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json: not a model configuration"):
        load_decoder(saved, CPU)
