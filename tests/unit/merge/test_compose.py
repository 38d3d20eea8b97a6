"""Recipes in memory give what files would, in any number of steps, and refuse what does not fit by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forge.errors import ConfigError, MergeError
from forge.merge import Parents, check_recipe, merge
from tests.unit.merge.rig import Tensors, pico, read_model, write_model

ABC = [{"model": name} for name in "abc"]
FILTERS = [{"filter": "layers.0.", "value": 0.5}, {"filter": "layers.2.", "value": 1.0}, {"value": 0.25}]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The base and three models."""
    return {name: write_model(tmp_path / name, pico(seed)) for seed, name in enumerate("oabc")}


def composed(folders: dict[str, Path], *recipes: dict[str, Any]) -> Tensors:
    with Parents(folders) as parents:
        return dict(parents.compose(recipes))


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "recipe",
    [
        {"merge_method": "linear", "models": ABC, "parameters": {"weight": [0.5, 1.0, 2.0]}},
        {"merge_method": "passthrough", "models": ABC[:1]},
        {"merge_method": "slerp", "base_model": "a", "models": ABC[:2], "parameters": {"t": 0.25}},
        {"merge_method": "ties", "base_model": "o", "models": ABC,
         "parameters": {"weight": 1, "density": FILTERS}},
        {"merge_method": "dare_ties", "base_model": "o", "models": ABC, "seed": 5,
         "parameters": {"weight": 0.5, "density": 0.5}},
    ],
    ids=lambda recipe: recipe["merge_method"],
)  # fmt: skip
def test_one_recipe_gives_what_its_files_give(
    folders: dict[str, Path], tmp_path: Path, recipe: dict[str, Any]
) -> None:
    by_path = json.loads(json.dumps(recipe))
    for model in by_path["models"]:
        model["model"] = str(folders[model["model"]])
    if "base_model" in by_path:
        by_path["base_model"] = str(folders[by_path["base_model"]])
    merge(check_recipe(by_path), tmp_path / "out")
    assert same(composed(folders, recipe), read_model(tmp_path / "out"))


def test_a_later_recipe_takes_the_result_of_an_earlier_one(folders: dict[str, Path], tmp_path: Path) -> None:
    first = {"name": "mean", "merge_method": "linear", "models": ABC, "parameters": {"weight": 1.0}}
    second = {"merge_method": "ties", "base_model": "o", "models": [*ABC, {"model": "mean"}],
              "parameters": {"weight": 1.0, "density": 0.4}}  # fmt: skip
    mean = composed(folders, first)
    folders["mean"] = write_model(tmp_path / "mean", mean)
    assert same(composed({n: folders[n] for n in "oabc"}, first, second), composed(folders, second))
    assert not same(composed(folders, first, second), mean)


def test_a_one_hot_average_is_a_choice(folders: dict[str, Path]) -> None:
    def only(model: str, parts: list[str]) -> dict[str, Any]:
        chosen = [{"filter": part, "value": 1.0} for part in parts]
        return {"model": model, "parameters": {"weight": [*chosen, {"value": 0.0 if parts else 1.0}]}}

    models = [only("a", ["layers.0.", "layers.1."]), only("b", [])]
    models[1]["parameters"]["weight"] = [
        {"filter": "layers.0.", "value": 0.0}, {"filter": "layers.1.", "value": 0.0}, {"value": 1.0},
    ]  # fmt: skip
    found = composed(folders, {"merge_method": "linear", "models": models})
    for name, tensor in found.items():
        chosen = "a" if "layers.0." in name or "layers.1." in name else "b"
        assert np.array_equal(tensor, pico("oab".index(chosen))[name]), name


def test_parents_that_do_not_fit_are_refused_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    def refused(reason: str, tensors: Tensors | None = None, **config: Any) -> None:
        odd = write_model(tmp_path / f"odd-{len(list(tmp_path.iterdir()))}", tensors or pico(4), **config)
        with pytest.raises(MergeError, match=reason):
            Parents({**folders, "odd": odd})

    lacking = pico(4)
    del lacking["model.layers.1.mlp.up_proj.weight"]
    refused("lacks model.layers.1.mlp.up_proj.weight", lacking)
    wide = pico(4)
    wide["model.norm.weight"] = np.ones(9, np.float32)
    refused(r"model.norm.weight is \[8\] in o, \[9\] in odd", wide)
    refused("hidden_act is", hidden_act="gelu")


def test_another_tokenizer_is_refused(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        document = {"model": {"vocab": {"a": 0, "b" if name == "c" else "d": 1}}}
        (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(MergeError, match=r"tokenizer.json: model.vocab.b is not the same"):
        Parents(folders)


def test_weights_that_are_not_finite_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = pico(4)
    broken["model.layers.2.self_attn.v_proj.weight"][3, 3] = np.nan
    folders["b"] = write_model(tmp_path / "broken", broken)
    what = r"broken.*: model.layers.2.self_attn.v_proj.weight holds NaN"
    with Parents(folders) as parents, pytest.raises(MergeError, match=what):
        parents.require_finite()


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"merge_method": "linear", "models": [{"model": "x"}], "parameters": {"weight": 1}}, "no model x"),
        ({"merge_method": "linear", "models": ABC}, "parameters.weight"),
        ({"merge_method": "ties", "base_model": "o", "models": ABC,
          "parameters": {"weight": 1, "density": 2}}, "density: 2 is out of range"),
        ({"merge_method": "passthrough", "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]},
         "second: its layers are not those of its models"),
    ],
)  # fmt: skip
def test_a_recipe_that_does_not_fit_is_refused(
    folders: dict[str, Path], recipe: dict[str, Any], reason: str
) -> None:
    first = {"merge_method": "linear", "models": ABC, "parameters": {"weight": 1}}
    with Parents(folders) as parents, pytest.raises((MergeError, ConfigError), match=reason):
        next(parents.compose([first, {"name": "second", **recipe}]))
