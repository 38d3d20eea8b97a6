"""`forge stop`, `forge pause` and `forge resume` asked of a run in another process."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from forge.cli import control
from forge.engine import Engine
from forge.home import Home
from forge.registry import Registry, State, edits, queries
from tests.unit.cli.conftest import COMMAND, ENDLESS, Forge, add, held, until


def test_pause_resume_and_stop_are_answered(forge: Forge, home: Home, config: Path) -> None:
    run = subprocess.Popen(
        [*COMMAND, "run", str(config), "--name", "first", *ENDLESS],
        env={**os.environ, "FORGE_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: live(forge) == "running", "the start")
        paused = forge("pause")
        assert paused.code == 0
        assert paused.err.startswith(f"pause requested of first (pid {run.pid} on ")
        assert "done: first paused before step " in paused.err
        assert live(forge) == "paused"
        twice = forge("pause")
        assert twice.code == 1
        assert "pause of first was refused: the run is already paused." in twice.err
        resumed = forge("resume")
        assert resumed.code == 0
        assert "done: first went on at step " in resumed.err
        taken = forge("resume", "first")
        assert taken.code == 5
        assert f"first is running in pid {run.pid}" in taken.err
        stopped = forge("stop", "first")
        assert stopped.code == 0
        assert "done: first stopped, with a checkpoint at step " in stopped.err
        # Whoever resumes now finds it free, though the process may still be ending.
        assert forge("status", "first", "--json").json["sessions"][0]["owner"] is None
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 12
    assert "first stopped by " in err
    assert "paused by " in err
    assert forge("stop", "first").code == 10


def live(forge: Forge) -> str | None:
    """State of the live session that has made a step."""
    sessions = forge("status", "--json").json["sessions"]
    return (
        sessions[0]["state"]
        if sessions and sessions[0]["progress"] and sessions[0]["progress"]["step"]
        else None
    )


@pytest.fixture
def owned(home: Home) -> str:
    """A session that looks live, whose owner never answers."""
    return add(home, "first", State.RUNNING)


def test_no_answer_in_time_is_told(home: Home, owned: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = Engine(home)
    with held(home, owned):
        assert control.ask(engine, engine.session(owned), "stop", wait=True, seconds=0) == 1
    (command,) = engine.registry.fetch(queries.open_commands(owned))
    engine.shutdown()
    assert command.kind == "stop"
    assert "no answer from first in 0 seconds; the request stands" in capsys.readouterr().err


def test_no_wait(forge: Forge, home: Home, owned: str) -> None:
    with held(home, owned):
        result = forge("stop", "--no-wait")
    assert (result.code, result.out) == (0, "")
    assert result.err == "stop requested of first (pid 4121 on gpu-box)\n"


def test_an_owner_that_dies_is_noticed(
    forge: Forge, home: Home, owned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = held(home, owned)
    lease.__enter__()
    monkeypatch.setattr("forge.cli.control.time.sleep", lambda _: lease.__exit__(None, None, None))
    result = forge("stop")
    assert result.code == 1
    assert "stop of first was void: the process that it was meant for has ended." in result.err


def test_nobody_runs_it(forge: Forge, home: Home) -> None:
    add(home, "first", State.STOPPED)
    result = forge("pause", "first")
    assert result.code == 10
    assert 'Start it with "forge resume first".' in result.err
    unnamed = forge("stop")
    assert (unnamed.code, unnamed.err) == (4, "forge: nothing runs, so there is nothing to stop.\n")


def test_an_answer_from_outside_is_harmless(
    forge: Forge, home: Home, owned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: float) -> None:
        with Registry.open(home) as registry:
            (command,) = registry.fetch(queries.open_commands(owned))
            registry.write(lambda c: edits.answer_command(c, command.id, "refused", "no\x1b[2J", 1.0))

    monkeypatch.setattr("forge.cli.control.time.sleep", answer)
    with held(home, owned):
        result = forge("pause")
    assert result.code == 1
    assert "was refused: no\\x1b[2J." in result.err


def test_stop_waits_until_the_session_is_free(
    forge: Forge, home: Home, owned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, slept = held(home, owned), iter(range(100))
    lease.__enter__()

    def sleep(_: float) -> None:
        """The owner answers first, and gives the lease back a moment later."""
        if next(slept) == 0:
            with Registry.open(home) as registry:
                (command,) = registry.fetch(queries.open_commands(owned))
                registry.write(
                    lambda c: edits.answer_command(c, command.id, "done", "stopped at step 9", 1.0)
                )
        else:
            lease.__exit__(None, None, None)

    monkeypatch.setattr("forge.cli.control.time.sleep", sleep)
    result = forge("stop")
    assert result.code == 0
    assert result.err.endswith("done: first stopped at step 9\n")
    assert next(slept) == 2
