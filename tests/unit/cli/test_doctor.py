"""`forge doctor`: facts of this machine, and exit code 1 with a remedy when something is wrong."""

from __future__ import annotations

import sys
from collections import namedtuple
from pathlib import Path

import pytest

from forge.cli import doctor
from forge.home import Home
from forge.registry import LIBRARY, VERSION
from tests.unit.cli.conftest import Forge, add, invoke

Usage = namedtuple("Usage", "total used free")


def test_what_is_found(forge: Forge, home: Home) -> None:
    add(home, "first")
    answer = forge("doctor", "--json")
    assert answer.code == 0, answer.out
    found = {finding["what"]: finding for finding in answer.json["findings"]}
    assert answer.json["ok"] is True
    assert f"{VERSION} ({LIBRARY})" in found["sqlite"]["found"]
    assert found["home"]["found"] == str(home.root)
    assert found["registry"]["found"].endswith("1 sessions, 0 live")
    assert found["torch"]["found"].startswith(sys.modules["torch"].__version__)
    assert {
        "python",
        "machine",
        "cuda",
        "file system",
        "disk",
        "tokenizers",
        "terminal",
        "locale",
        "tmux",
        "logout",
        "nvml",
        "gpu",
    } <= set(found)
    assert forge("doctor").out.endswith("nothing is wrong\n")


def test_it_makes_nothing(tmp_path: Path) -> None:
    assert invoke(Home(tmp_path / "none" / "home"), "doctor").code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_written(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.cli.doctor.os.access", lambda *_: False)
    finding = next(doctor.home_folder(home))
    assert finding.state == "wrong"
    assert "FORGE_HOME" in finding.remedy


def test_a_home_on_the_network(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "filesystem_type", lambda _: "nfs4")
    assert {f.what: f.state for f in doctor.home_folder(home)}["file system"] == "wrong"


def test_a_home_in_memory_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "filesystem_type", lambda _: "tmpfs")
    finding = {f.what: f for f in doctor.home_folder(home)}["file system"]
    assert finding.state == "note"
    assert "gone after a restart" in finding.found


@pytest.mark.parametrize(("free", "state"), [(1e7, "wrong"), (1e9, "note"), (1e11, "ok")])
def test_room_on_the_disk(home: Home, monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    monkeypatch.setattr("forge.cli.doctor.shutil.disk_usage", lambda _: Usage(0, 0, free))
    assert {f.what: f.state for f in doctor.home_folder(home)}["disk"] == state


def test_a_damaged_registry(forge: Forge, home: Home) -> None:
    home.registry.write_bytes(b"not a database" * 100)
    result = forge("doctor")
    assert result.code == 1
    assert f"stop every forge, move {home.registry} away" in result.out
    assert result.out.endswith("1 wrong\n")
    assert home.registry.read_bytes() == b"not a database" * 100


def test_an_affected_sqlite_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.registry.WAL_SAFE", False)
    finding = next(doctor.sqlite_library())
    assert finding.state == "note"
    assert "rollback journal" in finding.found


def test_a_library_that_does_not_load_is_a_finding(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = forge("doctor", "--json")
    assert result.code == 1
    (wrong,) = [finding for finding in result.json["findings"] if finding["state"] == "wrong"]
    assert wrong["what"] == "tokenizers library"
    assert wrong["remedy"]
