"""`forge config`: what it prints can be used, and what is wrong with a file is told at once."""

from __future__ import annotations

from pathlib import Path

import yaml

from forge.config import load_config, preset_names
from tests.unit.cli.conftest import Forge


def test_presets_are_listed_with_their_purpose(forge: Forge) -> None:
    lines = forge("config", "presets").out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert any("About 1 M parameters" in line for line in lines)
    assert all("#" not in line for line in lines)


def test_show_prints_a_file_that_run_takes(forge: Forge, tmp_path: Path) -> None:
    shown = forge("config", "show", "tiny", "--set", "seed=7").out
    mine = tmp_path / "mine.yaml"
    mine.write_text(shown, "utf-8")
    assert yaml.safe_load(shown)["seed"] == 7
    assert load_config(str(mine)) == load_config("tiny", ["seed=7"])
    checked = forge("config", "check", str(mine))
    assert (checked.code, checked.out) == (0, f"{mine}: fine; phases pretrain, forging\n")


def test_schema_describes_every_setting(forge: Forge) -> None:
    schema = forge("config", "schema").json
    assert "ste_enabled" in schema["$defs"]["ForgeTrainingConfig"]["properties"]
    assert schema["properties"]["seed"]["description"]


def test_all_problems_of_a_file_at_once(forge: Forge, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("nope: 1\nmodel: {vocab_size: 1}\n", "utf-8")
    result = forge("config", "check", str(bad))
    assert result.code == 3
    assert result.out == ""
    assert "2 problems" in result.err
    assert "  nope: unknown key" in result.err
    assert "  model.vocab_size: " in result.err


def test_no_such_file(forge: Forge) -> None:
    assert forge("config", "check", "nowhere.yaml").code == 4
