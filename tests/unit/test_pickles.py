"""A pickle is known by what it is, refused with advice, and never unpickled."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from forge.home import Home, prepare_home
from forge.pickles import is_pickle, pickle_at
from tests.unit.cli.conftest import invoke


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


def modern(path: Path, trap: Trap) -> None:
    """As torch writes it now: a zip."""
    torch.save({"w": trap}, path)


def old(path: Path, trap: Trap) -> None:
    """As torch wrote it before 1.6."""
    torch.save({"w": trap}, path, _use_new_zipfile_serialization=False)


def bare(protocol: int) -> Callable[[Path, Trap], Any]:
    """A pickle without anything around it."""
    return lambda path, trap: path.write_bytes(pickle.dumps(trap, protocol))


KINDS: dict[str, Callable[[Path, Trap], Any]] = {
    "zip": modern, "old": old, **{f"protocol {n}": bare(n) for n in range(6)}
}  # fmt: skip
NAMES = ["model.pt", "model.pth", "pytorch_model.bin", "model.CKPT", "model.pkl"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NAMES, "model.safetensors", "model"])
def test_a_pickle_is_refused_by_every_command_and_never_read(kind: str, name: str, tmp_path: Path) -> None:
    home, sprung = prepare_home(Home(tmp_path / "home")), tmp_path / "sprung"
    model = tmp_path / name
    KINDS[kind](model, Trap(str(sprung)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"merge_method: linear\nmodels: [{{model: {model}}}]\nparameters: {{weight: 1}}\n", "utf-8"
    )
    merged = invoke(home, "merge", str(recipe), "-o", str(tmp_path / "merged"))
    generated = invoke(home, "generate", str(model), "x")
    configured = invoke(home, "run", str(model))
    as_recipe = invoke(home, "merge", str(model), "-o", str(tmp_path / "merged"))
    assert (merged.code, generated.code, configured.code, as_recipe.code) in {(13, 8, 3, 3), (13, 4, 3, 3)}
    # The text protocols have no mark of their own: there the name tells.
    if kind not in ("protocol 0", "protocol 1") or name in NAMES:
        for result in (merged, generated):
            assert "this is a pickle" in result.err
            assert "safetensors.torch.save_file" in result.err
        assert generated.code == 8
    assert not sprung.exists()
    assert not (tmp_path / "merged").exists()


def test_a_folder_that_has_only_pickles_is_told_so(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin: this is a pickle" in str(pickle_at(tmp_path))
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert pickle_at(tmp_path) is None
    assert pickle_at(tmp_path / "model.safetensors") is None
    assert pickle_at(tmp_path / "nothing") is None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    assert pickle_at(tmp_path / "model.pt") is None


@given(st.integers(2, 1 << 22), st.binary(max_size=8))
def test_no_safetensors_file_is_taken_for_one(length: int, rest: bytes) -> None:
    assert not is_pickle(length.to_bytes(8, "little") + rest)


@given(
    st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists, max_leaves=9),
    st.integers(2, 5),
)
def test_every_pickle_is_known(value: object, protocol: int) -> None:
    data = pickle.dumps({"state": value, "more": [value] * 3}, protocol)
    assert is_pickle(data[:8])
