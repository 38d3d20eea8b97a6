"""`forge merge` from end to end: its answer, its exit codes, and what is on disk afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from forge.cli.app import app
from tests.unit.merge.rig import pico, read_model, write_model


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models and a recipe in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["a", "b"]):
        write_model(tmp_path / name, pico(seed))
    write_recipe("linear")
    return tmp_path


def write_recipe(method: str) -> None:
    models = [{"model": name, "parameters": {"weight": 1}} for name in ("a", "b")]
    Path("recipe.yaml").write_text(yaml.safe_dump({"merge_method": method, "models": models}), "utf-8")


def forge(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["merge", *arguments], prog_name="forge", catch_exceptions=False)


def test_two_models_become_one() -> None:
    result = forge("recipe.yaml", "-o", "merged")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("merged: 2 models merged by linear, 1.85 k parameters in 29 tensors, ")
    assert result.stderr == ""
    assert read_model(Path("merged")).keys() == pico(0).keys()


def test_the_answer_as_json() -> None:
    result = forge("recipe.yaml", "-o", "merged", "--json")
    answer = json.loads(result.stdout)
    assert answer["path"] == "merged"
    assert answer["sha256"] == json.loads(Path("merged/card.json").read_text("utf-8"))["sha256"]
    assert (answer["method"], answer["models"], answer["tensors"]) == ("linear", 2, 29)


@pytest.mark.parametrize(
    ("break_it", "code", "message"),
    [
        (lambda: Path("recipe.yaml").unlink(), 4, "forge: recipe.yaml: no such recipe"),
        (lambda: write_recipe("magic"), 3, "merge_method: no method 'magic'"),
        (
            lambda: Path("b/model.safetensors").write_bytes(b"x"),
            13,
            "b/model.safetensors: 1 bytes, too short",
        ),
        (lambda: Path("merged").mkdir(), 13, "merged: exists already"),
    ],
)
def test_what_goes_wrong_has_its_exit_code(break_it: Callable[[], object], code: int, message: str) -> None:
    break_it()
    result = forge("recipe.yaml", "-o", "merged")
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
