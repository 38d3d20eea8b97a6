"""`--detach` and `--host process`: the run is elsewhere, the answers are the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pexpect
import psutil
import pytest

from forge.engine.lease import read_info
from forge.home import Home
from forge.locks import is_held
from forge.registry import State
from tests.unit.cli.conftest import COMMAND, ENDLESS, Forge, add, held, until


@pytest.fixture(autouse=True)
def _nothing_outlives_the_test(home: Home) -> Iterator[None]:
    yield
    for lease in home.sessions.glob("*/lease"):
        info = read_info(lease)
        if info is not None and info.pid != os.getpid() and is_held(lease):
            os.kill(info.pid, signal.SIGKILL)
            until(partial(_is_free, lease), "the end of the child")


def _is_free(lease: Path) -> bool:
    return not is_held(lease)


def test_it_runs_without_us_and_is_steered_like_any_other(forge: Forge, home: Home, config: Path) -> None:
    started = forge("run", str(config), "--name", "first", "--detach", *ENDLESS)
    assert (started.code, started.out) == (0, "first\n")
    (facts,) = forge("status", "--json").json["sessions"]
    pid = int(facts["owner"].split()[1])
    assert psutil.Process(pid).cmdline()[1:4] == ["-P", "-m", "forge.engine.child"]
    assert started.err == (
        f"first runs in pid {pid} and needs no terminal\n"
        "watch: forge-tui first, or forge status first\n"
        "stop:  forge stop first\n"
        "log:   forge logs first --follow\n"
    )
    assert "host: process" in next(home.sessions.glob("*/session.yaml")).read_text()
    # At once, while it is still loading the tensor library.
    paused = forge("pause")
    assert paused.code == 0
    assert "done: first paused before step 1" in paused.err
    assert forge("resume", "first", "--detach").code == 0, "one that is paused is told to go on where it is"
    stopped = forge("stop")
    assert stopped.code == 0
    assert "done: first stopped, with" in stopped.err
    again = forge("resume", "--detach", "--json")
    assert again.code == 0
    assert (again.json["name"], again.json["pid"] != pid) == ("first", True)
    assert "Traceback" not in forge("logs", "first").out


def test_in_a_process_but_watched_it_ends_like_one_here(forge: Forge, config: Path) -> None:
    result = forge("run", str(config), "--name", "first", "--host", "process", "--json")
    assert result.code == 0, result.err
    assert result.json["state"] == "completed"
    assert list(result.json["reports"]) == ["pretrain", "forging"]
    assert ", and goes on when this terminal closes; watch: forge-tui first; stop: Ctrl-C\n" in result.err
    assert result.err.endswith('first completed\ntry it with: forge generate first "def "\n')


def test_a_failure_in_a_process_has_its_exit_code_here(forge: Forge, home: Home) -> None:
    session_id = add(home, "first")
    home.session(session_id).config.write_text("{")
    failed = forge("resume", "first", "--host", "process", "-q")
    assert failed.code == 3
    assert failed.err.startswith(f"forge: {home.session(session_id).config}: not valid YAML")
    assert failed.err.endswith("once that is put right, go on with: forge resume first\n")


def test_why_it_does_not_start_is_told(forge: Forge, home: Home) -> None:
    taken, done = add(home, "taken"), add(home, "done", State.COMPLETED)
    with held(home, taken):
        refused = forge("resume", "taken", "--detach")
    assert refused.code == 5
    assert refused.err.startswith("forge: taken is run by another process")
    assert (refused.out, done != taken) == ("", True)
    assert forge("resume", "done", "--detach").code == 10


def test_a_thread_cannot_be_left_alone(forge: Forge, config: Path) -> None:
    result = forge("run", str(config), "--detach", "--host", "thread")
    assert result.code == 2
    assert "a thread of this program ends with it" in result.err


# --- at a terminal ----------------------------------------------------------------------------------------


@pytest.fixture
def watched(home: Home, config: Path) -> Iterator[pexpect.spawn[str]]:
    """`forge run --host process` of an endless session, on a terminal of its own."""
    terminal = pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], "run", str(config), "--name", "first", "--host", "process", *ENDLESS],
        env={**os.environ, "FORGE_HOME": str(home.root), "TERM": "xterm-256color"},
        encoding="utf-8",
        timeout=90,
    )
    terminal.expect("first runs in pid [0-9]+, and goes on when this terminal closes")
    yield terminal
    terminal.close(force=True)


def test_ctrl_c_stops_the_run_that_is_watched(watched: pexpect.spawn[str], forge: Forge) -> None:
    watched.sendintr()
    watched.expect(r"first stopped by Ctrl-C \(SIGINT\), ")
    watched.expect("go on with: forge resume first")
    watched.expect(pexpect.EOF)
    watched.close()
    assert watched.exitstatus == 130
    (facts,) = forge("status", "first", "--json").json["sessions"]
    assert (facts["state"], facts["owner"]) == ("stopped", None)
    assert facts["events"][-1]["message"].startswith("stopped by Ctrl-C (SIGINT), ")


def test_a_terminal_that_closes_ends_the_watching_and_no_run(
    watched: pexpect.spawn[str], forge: Forge, home: Home
) -> None:
    (facts,) = forge("status", "--json").json["sessions"]
    owner = psutil.Process(int(facts["owner"].split()[1]))
    assert owner.ppid() == watched.pid
    watched.close(force=False)
    assert watched.signalstatus == signal.SIGHUP
    until(lambda: owner.ppid() != watched.pid, "another parent")
    assert owner.is_running()
    assert is_held(next(home.sessions.glob("*/lease")))
