"""`forge config`: what can be configured, and whether a file is fine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources

from forge.cli.console import put, put_json, put_table
from forge.config import dump_yaml, json_schema, load_config, preset_names
from forge.text import clean_lines


def presets() -> int:
    """Print the presets, each with what it is for; returns the exit code."""
    put_table([[name, _purpose(name)] for name in preset_names()])
    return 0


def show(source: str, overrides: Sequence[str]) -> int:
    """Print a whole configuration as YAML; returns the exit code."""
    text = dump_yaml(load_config(source, overrides))
    print(clean_lines(text) if sys.stdout.isatty() else text, end="")
    return 0


def schema() -> int:
    """Print the JSON Schema of a configuration file; returns the exit code."""
    put_json(json_schema())
    return 0


def check(source: str, overrides: Sequence[str]) -> int:
    """Say whether a file is a valid configuration; returns the exit code.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is not valid; every problem is listed with its place.
    """
    config = load_config(source, overrides)
    put(f"{source}: fine; phases {', '.join(config.phases)}")
    return 0


def _purpose(name: str) -> str:
    """The comment at the top of a preset."""
    lines = (
        resources.files("forge.config").joinpath("presets", f"{name}.yaml").read_text("utf-8").splitlines()
    )
    return " ".join(line.lstrip("# ").strip() for line in lines[: _comment_length(lines)])


def _comment_length(lines: Sequence[str]) -> int:
    return next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
