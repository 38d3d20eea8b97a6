"""Recipes: mergekit's YAML is read, and everything that is wrong is told at once with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from forge.errors import ConfigError, NotFoundError
from forge.merge import METHODS, check_recipe, load_recipe
from forge.merge.methods import Method
from forge.merge.settings import read_settings, resolve

TIES: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [{"model": "a", "parameters": {"weight": 0.5, "density": 0.3}}, {"model": "b"}],
    "parameters": {"weight": 1, "lambda": 0.5, "int8_mask": True},
    "dtype": "bfloat16",
}


def problems(document: Any) -> list[str]:
    """Keys and sentences, one a line."""
    with pytest.raises(ConfigError) as raised:
        check_recipe(document, "recipe.yaml")
    head, *lines = str(raised.value).splitlines()
    assert head.startswith("recipe.yaml: ")
    return [line.strip() for line in lines] or [head]


def test_a_recipe_is_read() -> None:
    recipe = check_recipe(TIES)
    assert recipe.method is METHODS["ties"]
    assert recipe.models == ["base", "a", "b"]
    assert [source.model for source in recipe.slices[0].sources] == ["a", "b", "base"]
    assert (recipe.dtype, recipe.seed, recipe.needs_layers) == ("BF16", 0, False)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    found = problems(
        {
            "merge_method": "ties",
            "models": [
                {"model": "a", "parameters": {"weight": 1, "density": 1.5}},
                {"model": "b", "parameters": {"weight": "heavy", "lambda": 2}, "wieght": 3},
                {"model": 7},
            ],
            "parameters": {"densty": 0.5, "normalize": 1},
            "dtype": "int8",
            "chat_template": "auto",
            "seed": -1,
        }
    )
    keys = [line.split(": ")[0] for line in found]
    assert sorted(keys) == sorted(
        [
            "models[0].parameters.density", "models[1].parameters.weight", "models[1].parameters.lambda",
            "models[1].wieght", "models[2].model", "parameters.densty", "parameters.normalize", "dtype",
            "chat_template", "seed", "base_model",
        ]
    )  # fmt: skip
    assert "models[0].parameters.density: 1.5 is out of range: 0 to 1" in found


def changed(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**TIES, **changes}.items() if value is not None}


LAYERS = {"model": "a", "layer_range": [0, 2]}

WRONG: dict[str, tuple[Any, str]] = {
    "no keys": ([1, 2], "expected keys and values"),
    "no method": (changed(merge_method=None), "merge_method: is missing"),
    "unknown method": (changed(merge_method="tiess"), "merge_method: no method 'tiess'; known are linear"),
    "method of another type": (changed(merge_method=["ties"]), "merge_method: no method"),
    "neither models nor slices": (changed(models=None), "models: give either models or slices"),
    "both": (changed(slices=[{"sources": [LAYERS]}]), "models: give either models or slices"),
    "no list": (changed(models={"a": 1}), "models: expected a list"),
    "empty list": (changed(models=[]), "models: expected a list"),
    "a name alone": (changed(models=["a"]), r"models\[0\]: expected a model"),
    "the same twice": (changed(models=[{"model": "a"}, {"model": "a"}]), "models: a is listed twice"),
    "only the base": (changed(models=[{"model": "base"}]), "models: no model to merge"),
    "parameters of the base": (
        changed(models=[{"model": "a"}, {"model": "base", "parameters": {"weight": 1}}]),
        r"models\[1\]\.parameters: ties has no use for parameters of the base",
    ),
    "a base for linear": (
        {
            "merge_method": "linear",
            "base_model": "x",
            "models": [{"model": "a", "parameters": {"weight": 1}}],
        },
        "base_model: linear has no base",
    ),
    "three for slerp": (
        {
            "merge_method": "slerp",
            "base_model": "a",
            "models": [{"model": "a"}, {"model": "b"}, {"model": "c"}],
            "parameters": {"t": 0.5},
        },
        "models: slerp takes 1 model besides the base, these are 2",
    ),
    "no t": (
        {"merge_method": "slerp", "base_model": "a", "models": [{"model": "b"}]},
        r"parameters\.t: is missing; slerp needs it",
    ),
    "no weight": (changed(parameters=None), r"parameters\.weight: is missing for b"),
    "another tokenizer": (changed(tokenizer_source="union"), "tokenizer_source: expected base or copy"),
    "modules": (changed(modules={}), "modules: models of several modules"),
    "not a number": (changed(parameters={"weight": None}), r"parameters\.weight: expected a finite number"),
    "infinite": (changed(parameters={"weight": float("inf")}), r"parameters\.weight: expected a finite"),
    "too long for a float": (
        changed(parameters={"weight": 10**400}),
        r"parameters\.weight: expected a finite",
    ),
    "true as a number": (changed(parameters={"weight": True}), r"parameters\.weight: expected a finite"),
    "negative density": (
        changed(parameters={"weight": 1, "density": -0.1}),
        r"parameters\.density: -0\.1 is out",
    ),
    "a bad point of a gradient": (
        changed(parameters={"weight": 1, "density": [0.5, 2]}),
        r"parameters\.density\[1\]: 2 is out of range",
    ),
    "empty gradient": (changed(parameters={"weight": []}), r"parameters\.weight: an empty list"),
    "a filter without value": (
        changed(parameters={"weight": [{"filter": "mlp"}]}),
        r"parameters\.weight\[0\]\.value: is missing",
    ),
    "another key beside filter": (
        changed(parameters={"weight": {"value": 1, "layers": 2}}),
        r"parameters\.weight\.layers: unknown key",
    ),
    "parameters as a list": (changed(parameters=[1]), "parameters: expected names and values"),
    "no layers": (
        {"merge_method": "passthrough", "slices": [{"sources": [{"model": "a"}]}]},
        r"slices\[0\]\.sources\[0\]\.layer_range: expected \[first, last \+ 1\]",
    ),
    "layers in reverse": (
        {"merge_method": "passthrough", "slices": [{"sources": [{"model": "a", "layer_range": [3, 1]}]}]},
        "layer_range: expected",
    ),
    "two models for passthrough": (
        {"merge_method": "passthrough", "slices": [{"sources": [LAYERS, {**LAYERS, "model": "b"}]}]},
        r"slices\[0\]\.sources: passthrough takes 1 model, these are 2",
    ),
    "ranges of two lengths": (
        {
            "merge_method": "slerp",
            "base_model": "a",
            "slices": [{"sources": [LAYERS, {"model": "b", "layer_range": [0, 3]}]}],
            "parameters": {"t": 0.5},
        },
        r"slices\[0\]\.sources: all need a layer_range of one length",
    ),
    "a slice without the base": (
        {
            "merge_method": "slerp",
            "base_model": "x",
            "slices": [{"sources": [LAYERS]}],
            "parameters": {"t": 1},
        },
        r"slices\[0\]\.sources: the base model x is missing",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str) -> None:
    document, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        check_recipe(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", "not valid YAML"),
        (b"\xff", "not UTF-8"),
        (b"x" * (1 << 18) + b"y", "larger than"),
        (b"PK\x03\x04\xff\xff", "this is a pickle"),
        (b"&a [*a]", "an alias stands for itself"),
        (b"merge_method: &a [*a, *a]", "an alias stands for itself"),
        (b"!!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_so(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_recipe(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_a_document_that_unfolds_without_end_is_not_printed() -> None:
    layers = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    document = yaml.safe_load("\n".join([*layers, "merge_method: *a29", "parameters: {weight: *a29}"]))
    assert max(map(len, problems(document))) < 500


def test_a_missing_recipe_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such recipe"):
        load_recipe(tmp_path / "recipe.yaml")


def value_at(raw: Any, tensor: str, t: float, name: str = "weight") -> Any:
    method: Method = METHODS["ties"]
    settings, found = read_settings({name: raw}, method, "parameters", of_model=False)
    assert found == []
    parameter = method.parameter(name)
    assert parameter is not None
    return resolve(parameter, [settings], tensor, t)


@given(st.floats(0, 1))
def test_a_gradient_is_interpolated(t: float) -> None:
    assert value_at([0.0, 1.0], "w", t) == pytest.approx(t)
    assert value_at([0, 1, 0], "w", t) == pytest.approx(1 - abs(2 * t - 1))
    assert value_at([3], "w", t) == 3.0


def test_the_first_filter_that_fits_counts() -> None:
    raw = [{"filter": "mlp", "value": [0, 1]}, {"filter": "*", "value": "1e-3"}, {"value": 9}]
    assert value_at(raw, "layers.0.mlp.up.weight", 0.25) == 0.25
    assert value_at(raw, "layers.0.attn.q.weight", 0.25) == 1e-3
    assert value_at({"filter": "mlp", "value": 0.1}, "norm.weight", 0, "density") == 1.0


def test_flags_change_in_steps() -> None:
    assert [value_at([True, False], "w", t, "normalize") for t in (0.0, 0.9, 1.0)] == [True, True, False]


def test_a_models_own_parameters_come_before_the_slices_and_the_recipes() -> None:
    recipe = check_recipe(
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "slices": [
                {
                    "sources": [
                        {"model": "a", "layer_range": [0, 1], "parameters": {"weight": 1}},
                        {"model": "b", "layer_range": [0, 1]},
                        {"model": "base", "layer_range": [0, 1]},
                    ],
                    "parameters": {"weight": 2},
                }
            ],
            "parameters": {"weight": 3},
        }
    )
    (part,) = recipe.slices
    parameter = recipe.method.parameters[0]
    found = [resolve(parameter, [s.settings, part.settings, recipe.settings], "w", 0) for s in part.sources]
    assert found == [1.0, 2.0, 2.0]
