"""`forge generate`: which model is meant, and the same seed gives the same text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from forge.cli import generate
from forge.home import Home
from forge.models.io import load_decoder
from forge.quant.linear import QuantizedLinearSTE
from forge.registry import State
from tests.unit.cli.conftest import Forge, Result, add, invoke

Trained = tuple[Home, Result]
SETTINGS = ("--max-tokens", "12", "--seed", "7")


@pytest.fixture
def models(trained: Trained) -> list[Path]:
    """The folders of the plain and the forged model."""
    return [Path(model["path"]) for model in trained[1].json["models"]]


def test_a_seed_gives_the_same_text_again(trained: Trained) -> None:
    home, _ = trained
    one, two, other = (
        invoke(home, "generate", "def f", "--json", "--max-tokens", "12", "--seed", seed).json
        for seed in ("7", "7", "8")
    )
    assert one["text"] == two["text"] != other["text"]
    assert (one["prompt"], one["seed"]) == ("def f", 7)
    assert one["tokens"] == 12 or one["ended"]


def test_text_is_prompt_and_continuation_on_stdout(trained: Trained) -> None:
    home, _ = trained
    answer = invoke(home, "generate", "first", "def f", *SETTINGS, "--json").json
    shown = invoke(home, "generate", "first", "def f", *SETTINGS)
    assert shown.out == f"def f{answer['text']}\n"
    assert shown.err.startswith("first/forging (forged ternary) · ")
    assert shown.err.endswith("seed 7\n")


def test_a_model_has_several_names(trained: Trained, models: list[Path]) -> None:
    home, _ = trained
    plain, forged = models
    for name, folder in [
        ("first", forged),
        ("first/forging", forged),
        ("first/pretrain", plain),
        (plain.name, plain),
        (forged.name, forged),
        (forged.name[:-1], forged),
        (str(plain), plain),
    ]:
        assert invoke(home, "generate", name, "x", *SETTINGS, "--json").json["model"] == str(folder), name
    assert invoke(home, "generate", "x", *SETTINGS, "--json").json["model"] == str(forged)


def test_a_forged_model_runs_ternary_and_a_plain_one_does_not(models: list[Path]) -> None:
    plain, forged = (generate._load(folder)[0] for folder in models)

    def quantised(model: nn.Module) -> list[QuantizedLinearSTE]:
        return [module for module in model.modules() if isinstance(module, QuantizedLinearSTE)]

    assert not quantised(plain)
    layers = quantised(forged)
    assert layers
    tokens = torch.arange(8)[None]
    latent = load_decoder(models[1], torch.device("cpu")).eval()
    with torch.inference_mode():
        assert not torch.equal(forged(tokens), latent(tokens))


def test_the_prompt_can_come_from_stdin_and_be_empty(trained: Trained) -> None:
    home, _ = trained
    assert invoke(home, "generate", "-", *SETTINGS, "--json", stdin="def f").json["prompt"] == "def f"
    empty = invoke(home, "generate", "", *SETTINGS, "--json")
    assert empty.code == 0
    assert empty.json["prompt"] == ""


def test_top_k_0_draws_from_all_and_1_takes_the_likeliest(trained: Trained) -> None:
    home, _ = trained

    def text(*options: str) -> str:
        return str(invoke(home, "generate", "def f", "--json", "--max-tokens", "12", *options).json["text"])

    assert text("--top-k", "1", "--seed", "1") == text("--temperature", "0", "--seed", "2")
    assert text("--top-k", "0", "--seed", "1") != text("--top-k", "1", "--seed", "1")


def test_what_cannot_be_found(forge: Forge, home: Home) -> None:
    nothing = forge("generate", "x")
    assert nothing.code == 4
    add(home, "empty", State.STOPPED)
    assert forge("generate", "x").err.startswith("forge: there is no finished model yet")
    assert forge("generate", "empty", "x").err.startswith("forge: empty has no finished model yet")
    assert forge("generate", "empty/forging", "x").err.startswith(
        "forge: empty has no finished model of the phase forging"
    )
    assert forge("generate", "nobody", "x").code == 4
    alone = forge("generate", "empty")
    assert alone.code == 2
    assert "give a prompt after it" in alone.err


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("card.json", b"{", 8),
        ("config.json", b"{}x", 8),
        ("model.safetensors", b"short", 8),
        ("tokenizer.json", b"{}", 7),
    ],
)
def test_a_damaged_model_is_one_sentence(
    models: list[Path], forge: Forge, tmp_path: Path, file: str, content: bytes, code: int
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models[1], folder)
    (folder / file).write_bytes(content)
    result = forge("generate", str(folder), "x")
    assert result.code == code
    assert str(folder / file) in result.err


def test_a_folder_without_a_card_is_a_plain_model(models: list[Path], forge: Forge, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models[0], folder)
    (folder / "card.json").unlink()
    assert forge("generate", str(folder), "x", *SETTINGS).code == 0


def test_a_terminal_never_obeys_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate._write("\x1b[2J\ta\n")
    assert capsys.readouterr().out == "\x1b[2J\ta\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    generate._write("\x1b[2J\ta\n")
    assert capsys.readouterr().out == "\\x1b[2J    a\n"


def test_the_card_decides_about_activations(models: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models[1], folder)
    card = json.loads((folder / "card.json").read_text("utf-8"))
    card["quantisation"]["activation_bits"] = None
    (folder / "card.json").write_text(json.dumps(card), "utf-8")
    tokens = torch.arange(8)[None]
    with torch.inference_mode():
        assert not torch.equal(generate._load(folder)[0](tokens), generate._load(models[1])[0](tokens))
