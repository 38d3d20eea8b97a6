"""`forge run` and `forge resume` with real, very small sessions; and what can be wrong at the start."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from forge.config import load_config
from forge.engine import Engine
from forge.errors import CorpusError
from forge.home import Home
from forge.registry import Registry, State, open_writer, queries
from tests.unit.cli.conftest import Forge, Result, add, held, invoke

Trained = tuple[Home, Result]


def states(home: Home) -> list[State]:
    """States of all sessions, newest first."""
    with Registry.open(home) as registry:
        return [row.state for row in registry.fetch(queries.sessions(limit=100))]


def test_run_prints_one_json_object(trained: Trained) -> None:
    home, result = trained
    answer = result.json
    assert set(answer) == {"session", "name", "state", "error", "reports", "models"}
    assert (answer["name"], answer["state"], answer["error"]) == ("first", "completed", None)
    assert list(answer["reports"]) == ["pretrain", "forging"]
    assert [model["phase"] for model in answer["models"]] == ["pretrain", "forging"]
    for model in answer["models"]:
        assert (Path(model["path"]) / "model.safetensors").is_file()
        assert Path(model["path"]).is_relative_to(home.session(answer["session"]).root)


def test_progress_goes_to_stderr_as_lines(trained: Trained) -> None:
    _, result = trained
    assert result.err.startswith("first runs here; watch: forge-tui first; stop: Ctrl-C\n")
    assert "pretrain begins" in result.err
    assert "forging completed: full precision" in result.err
    assert result.err.endswith('first completed\ntry it with: forge generate first "def "\n')
    assert "\x1b" not in result.err


def test_the_report_is_a_table_with_the_figures_of_the_registry(
    forge: Forge, config: Path, home: Home
) -> None:
    result = forge("run", str(config), "--set", "phases=[pretrain]", "--quiet")
    assert result.code == 0
    with Registry.open(home) as registry:
        session = registry.fetch(queries.sessions(limit=1))[0]
        run = registry.fetch(queries.phase_runs(session.id))[0]
    assert run.report is not None
    title, row = result.out.splitlines()
    assert title.startswith("Pre-training · ")
    assert f"{run.report['rows'][0]['value']:.3f}" in row
    assert row.split()[:2] == ["full", "precision"]
    assert result.err == f'{session.name} completed\ntry it with: forge generate {session.name} "def "\n'


def test_resume_goes_on_after_a_stop(
    forge: Forge, config: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is asked to stop at once ends with a checkpoint and exit code 12, and resume finishes it."""
    start = Engine.host

    def host(self: Engine, session_id: str) -> Any:
        run = start(self, session_id)
        run.stop("asked by the test")
        return run

    monkeypatch.setattr(Engine, "host", host)
    stopped = forge("run", str(config), "--name", "second", "--json")
    assert stopped.code == 12
    assert stopped.json["state"] == "stopped"
    assert stopped.err.endswith("go on with: forge resume second\n")
    assert states(home) == [State.STOPPED]
    monkeypatch.undo()
    finished = forge("resume", "--json")
    assert finished.code == 0, finished.err
    assert finished.json["state"] == "completed"
    assert finished.json["session"] == stopped.json["session"]
    again = forge("resume", "second")
    assert again.code == 10
    assert again.err == "forge: second is completed; there is nothing left to run.\n"
    assert forge("resume").code == 4


@pytest.mark.parametrize(
    ("override", "code", "said"),
    [
        ("a.b=1", 3, "a: unknown key"),
        ("pretrain.steps=no", 3, "pretrain.steps"),
        ("nonsense", 3, "expected key=value"),
        ("data.corpus=text:/nowhere/*.txt", 7, "no file matches"),
        ("data.corpus=text:/nowhere/**/*.txt", 7, "there is no folder /nowhere"),
        ("runtime.device=cuda:99", 3, "runtime.device"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    forge: Forge, config: Path, override: str, code: int, said: str
) -> None:
    result = forge("run", str(config), "--set", override)
    assert result.code == code
    assert said in result.err
    assert result.err.count("forge: ") == 1
    assert result.out == ""
    assert "Traceback" not in result.err


def test_a_failed_run_keeps_its_reason_and_can_go_on(
    forge: Forge, config: Path, tmp_path: Path, home: Home
) -> None:
    late = tmp_path / "late"
    late.mkdir()
    (late / "0.txt").write_bytes(b"no text\0")
    setting = f"data.corpus=text:{late}/*.txt"
    failed = forge("run", str(config), "--set", setting, "--json")
    assert failed.code == 7
    assert failed.json["state"] == "failed"
    assert failed.json["error"] in failed.err
    (late / "0.txt").unlink()
    late.rmdir()
    (tmp_path / "texts").rename(late)
    assert forge("resume", "-q").code == 0
    assert states(home) == [State.COMPLETED]


def test_a_corpus_that_is_missing_is_found_before_anything_is_made(config: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "new")
    result = invoke(home, "run", str(config), "--set", f"data.corpus=text:{tmp_path}/none/*.txt")
    assert (result.code, result.out) == (7, "")
    assert not home.root.exists()
    engine = Engine(home)
    missing = load_config(str(config), [f"data.corpus=text:{tmp_path}/none/*.txt"])
    with pytest.raises(CorpusError):
        engine.create(missing)
    assert engine.registry.fetch(queries.sessions(limit=5)) == []
    assert list(home.sessions.iterdir()) == []
    engine.shutdown()


def test_corrupt_yaml_is_told_with_its_place(forge: Forge, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("model: {vocab_size: [\n", "utf-8")
    result = forge("run", str(bad))
    assert result.code == 3
    assert result.err.startswith(f"forge: {bad}: not valid YAML")


def test_neither_preset_nor_file(forge: Forge) -> None:
    result = forge("run", "no\x1b[2Jsuch")
    assert result.code == 4
    assert "no\\x1b[2Jsuch" in result.err
    assert "tiny" in result.err


def test_home_that_cannot_be_made(config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    result = invoke(Home(tmp_path / "file" / "home"), "run", str(config))
    assert result.code == 6
    assert result.err.startswith(f"forge: cannot create the Forge home {tmp_path / 'file' / 'home'}")


def test_a_newer_registry_can_be_read_but_not_run(forge: Forge, config: Path, home: Home) -> None:
    add(home, "old")
    with closing(open_writer(home.registry, synchronous="FULL", wal_autocheckpoint=1000)) as connection:
        connection.execute("PRAGMA user_version=99")
    refused = forge("run", str(config))
    assert refused.code == 9
    assert "newer Forge" in refused.err
    assert len(list(home.sessions.iterdir())) == 1
    listed = forge("sessions")
    assert listed.code == 0
    assert "old" in listed.out
    assert "newer Forge" in listed.err
    assert forge("resume", "old").code == 9
    assert forge("doctor").code == 1


def test_a_session_that_another_process_runs(forge: Forge, home: Home) -> None:
    session_id = add(home, "taken")
    root = home.session(session_id).root
    with held(home, session_id):
        (root / "lease").write_text(
            '{"token": "t", "pid": 4121, "host": "gpu-box", "boot_id": "b", "since": 0.0}', "utf-8"
        )
        result = forge("resume", "taken")
    assert result.code == 5
    assert "taken is running in pid 4121 on gpu-box" in result.err
    assert "forge stop taken" in result.err


def test_a_session_whose_folder_is_gone(forge: Forge, home: Home) -> None:
    session_id = add(home, "gone")
    home.session(session_id).root.rmdir()
    result = forge("resume", "gone")
    assert result.code == 1
    assert str(home.session(session_id).lease) in result.err
