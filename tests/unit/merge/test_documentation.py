"""docs/merge.md names every method and parameter with its default, and its recipes are recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from forge.merge import METHODS, check_recipe
from forge.merge.parameters import REQUIRED

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "merge.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT, re.MULTILINE))


def documented(name: str) -> dict[str, str | None]:
    """Parameters of a method and their defaults, those it has from another method included."""
    cell = ROWS[name].rsplit("|", 1)[1]
    found = dict(re.findall(r"`(\w+)`(?: \(([^)]*)\))?", cell))
    parent = re.match(r"\s*as `(\w+)`", cell)
    if parent is None:
        return {key: value or None for key, value in found.items()}
    found.pop(parent[1])
    return {**documented(parent[1]), **found}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_documented_with_its_defaults(name: str) -> None:
    expected = {}
    for parameter in METHODS[name].parameters:
        if parameter.name == "int8_mask":
            continue
        default = parameter.default
        text = (
            {True: "true", False: "false", None: "none"}.get(default)
            if not isinstance(default, float)
            else f"{default:g}"
        )
        expected[parameter.name] = None if default is REQUIRED else str(default) if text is None else text
    assert documented(name) == {
        key: value and value.replace("1e-08", "1e-8") for key, value in expected.items()
    }


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
def test_an_example_is_a_recipe(text: str) -> None:
    check_recipe(yaml.safe_load(text))


def test_the_examples_are_found() -> None:
    assert TEXT.count("```yaml") == 3
