"""`forge config`: what it prints can be used, and what is wrong with a file is told at once."""

from __future__ import annotations

from pathlib import Path

import yaml

from forge.config import load_config, load_settings, preset_names
from forge.home import Home
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


def test_the_settings_of_the_home_are_shown_and_changed(forge: Forge, home: Home) -> None:
    shown = forge("config", "settings")
    assert yaml.safe_load(shown.out)["retention"]["max_age_days"] == 30
    assert shown.err == f"{home.settings} (not there: these are the defaults)\n"
    changed = forge("config", "settings", "--set", "retention.max_age_days=90", "--set", "retention.auto=no")
    assert yaml.safe_load(changed.out)["retention"]["max_age_days"] == 90
    assert changed.err == f"{home.settings}\n"
    assert not load_settings(home.settings).retention.auto
    refused = forge("config", "settings", "--set", "retention.max_age_days=0")
    assert (refused.code, refused.out) == (3, "")
    assert "retention.max_age_days" in refused.err
    assert load_settings(home.settings).retention.max_age_days == 90
