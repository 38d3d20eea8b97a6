"""`forge --help` is quick because it imports nothing slow, and its examples are commands that exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from forge import __version__, errors
from forge.cli import exits
from forge.cli.app import app
from tests.unit.cli.conftest import COMMAND, Forge

GROUP: Any = typer.main.get_command(app)
COMMANDS = {
    **GROUP.commands,
    **{
        f"{group} {name}": c
        for group, of in GROUP.commands.items()
        for name, c in getattr(of, "commands", {}).items()
    },
}


def examples() -> Iterator[str]:
    """Every example of every command."""
    for command in [GROUP, *COMMANDS.values()]:
        yield from re.findall(r"^  (?:.*\| )?(forge .*?)(?:  .*)?$", command.epilog or "", re.MULTILINE)


SLOW = {"asyncio", "forge.config", "forge.engine", "numpy", "pydantic", "rich", "tokenizers", "torch", "yaml"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["config", "show", "-h"], ["--version"]]
)
def test_help_imports_nothing_slow(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['forge', *{arguments!r}]\n"
        "from forge.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    assert result.stdout
    # To reach a command, typer itself checks the options before it with pydantic.
    allowed = set() if arguments == ["--help"] else {"pydantic"}
    assert SLOW & set(result.stderr.split()) <= allowed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_examples(name: str, forge: Forge) -> None:
    result = forge(*name.split(), "--help")
    assert result.code == 0
    assert f"Usage: forge {name}" in result.out
    assert COMMANDS[name].help
    assert f"forge {name}" in (COMMANDS[name].epilog or "")
    undocumented = [p.name for p in COMMANDS[name].params if not getattr(p, "help", None)]
    assert not undocumented


@pytest.mark.parametrize("example", sorted(set(examples())))
def test_an_example_is_a_valid_command(example: str) -> None:
    words = shlex.split(example.partition(" > ")[0].partition(" | ")[0])[1:]
    command = GROUP.commands[words.pop(0)]
    if words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    command.make_context("forge", words)


def test_enough_examples_are_found() -> None:
    found = list(examples())
    assert len(found) > 2 * len(GROUP.commands)
    assert "forge generate - --json" in found


def test_every_exit_code_is_documented(forge: Forge) -> None:
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.ForgeError)
    }
    documented = set(map(int, re.findall(r"^    (\d+)  ", forge("--help").out, re.MULTILINE)))
    assert len(codes) > 8
    assert codes | {0, 2, exits.STOPPED, exits.UNPROVEN, 130} == documented


def test_version(forge: Forge) -> None:
    assert forge("--version").out == f"forge {__version__}\n"


def test_wrong_use_is_told_with_exit_code_2(forge: Forge) -> None:
    for arguments in (
        [],
        ["frobnicate"],
        ["run"],
        ["sessions", "--limit", "many"],
        ["logs", "--level", "loud"],
    ):
        result = forge(*arguments)
        assert result.code == 2, arguments
        assert "Traceback" not in result.err


def test_a_reader_that_left_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [*COMMAND, "config", "presets"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert result.returncode == 141
    assert result.stderr == ""


def test_a_locale_without_a_character_is_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "FORGE_HOME": str(tmp_path / "größe")}
    result = subprocess.run(
        [*COMMAND, "status"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "gr\\xf6\\xdfe" in result.stdout


def test_completion_is_offered() -> None:
    environment = {
        **os.environ,
        "_FORGE_COMPLETE": "complete_bash",
        "COMP_WORDS": "forge run ",
        "COMP_CWORD": "2",
    }
    result = subprocess.run([*COMMAND], env=environment, capture_output=True, text=True, check=False)
    assert "tiny" in result.stdout.split()
