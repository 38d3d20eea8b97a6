"""Signals and terminals of a hosted run, in processes of their own: nothing is lost and nobody waits."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from forge.cli.display import TICK_SECONDS
from forge.home import Home
from forge.signals import Signals
from tests.unit.cli.conftest import COMMAND, ENDLESS, invoke, until

XOFF = "\x13"


@pytest.fixture
def left() -> list[int]:
    """Exit codes with which the process would have ended at once."""
    return []


@pytest.fixture
def signals(tmp_path: Path, left: list[int]) -> Iterator[Signals]:
    """Handlers of a run in this very process, without a terminal."""
    with Signals(tmp_path / "log.jsonl", left.append) as handlers:
        yield handlers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_ends_at_once(
    signals: Signals, left: list[int], number: signal.Signals
) -> None:
    os.kill(os.getpid(), number)
    assert signals.stop == number
    assert left == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert left == [143]


def test_a_hang_up_takes_only_terminals_away(signals: Signals, tmp_path: Path, left: list[int]) -> None:
    signals._terminals = frozenset()
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)
    assert signals.hung_up
    assert signals.redirected == frozenset()
    assert signals.stop is None
    assert left == []


def test_a_terminal_that_goes_without_a_signal_is_noticed(signals: Signals) -> None:
    ours, theirs = pty.openpty()
    spare = os.dup(theirs)
    signals._terminals = frozenset({theirs})
    signals.look()
    assert signals.redirected == frozenset()
    os.close(ours)
    signals.look()
    assert signals.hung_up
    assert signals.redirected == {theirs}
    assert os.fstat(theirs).st_rdev == Path(os.devnull).stat().st_rdev != os.fstat(spare).st_rdev
    for each in (theirs, spare):
        os.close(each)


def test_handlers_are_given_back(tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTTOU)
    before = [signal.getsignal(number) for number in numbers]
    with Signals(tmp_path / "log.jsonl"):
        assert all(signal.getsignal(n) is not b for n, b in zip(numbers, before, strict=True))
    assert [signal.getsignal(number) for number in numbers] == before


def test_what_was_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals(tmp_path / "log.jsonl") as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.hung_up
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Run:
    """`forge run` of an endless session on a terminal of its own, past its first steps."""

    def __init__(self, home: Home, config: Path) -> None:
        self.home = home
        self.screen = pexpect.spawn(
            COMMAND[0],
            [*COMMAND[1:], "run", str(config), "--name", "first", "--json", *ENDLESS],
            env={**os.environ, "FORGE_HOME": str(home.root), "TERM": "xterm-256color"},
            encoding="utf-8",
            dimensions=(24, 80),
            timeout=60,
        )
        self._code: int | None = None
        # Once the terminal has ended pexpect would wait for the process too, which goes on without it.
        self.screen.ptyproc.isalive = lambda: True
        self.screen.expect("tok/s")

    def facts(self) -> dict[str, Any]:
        """What `forge status` says about it."""
        facts: dict[str, Any] = invoke(self.home, "status", "first", "--json").json["sessions"][0]
        return facts

    def step(self) -> int:
        """The step in its heartbeat."""
        return int(self.facts()["progress"]["step"])

    def beat(self) -> float:
        """The time of its heartbeat."""
        return time.time() - float(self.facts()["progress"]["heartbeat_age_seconds"])

    def exit_code(self) -> int:
        """Wait for the end without reading from the terminal."""
        until(self._ended, "the end of the process")
        assert self._code is not None
        return self._code

    def hang_up(self) -> None:
        """Close the other end of its terminal: with the last descriptor the kernel sends SIGHUP."""
        self.screen.ptyproc.fileobj.close()

    def close(self) -> None:
        """Kill what is left."""
        if not self._ended():
            os.kill(self.screen.pid, signal.SIGKILL)
            until(self._ended, "the death of the process")
        self.hang_up()
        self.screen.closed = True

    def _ended(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.screen.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code is not None


@pytest.fixture
def run(home: Home, config: Path) -> Iterator[Run]:
    """A run that makes steps."""
    started = Run(home, config)
    try:
        yield started
    finally:
        started.close()


def test_ctrl_c_stops_with_a_checkpoint_and_says_how_to_go_on(run: Run) -> None:
    run.screen.sendintr()
    run.screen.expect("first stopped by Ctrl-C \\(SIGINT\\), with a checkpoint at step [0-9]+")
    # The bar hid the cursor and gave it back.
    assert "\x1b[?25h" in run.screen.before
    run.screen.expect("go on with: forge resume first")
    assert run.exit_code() == 130
    facts = run.facts()
    assert facts["state"] == "stopped"
    assert [event["kind"] for event in facts["events"][-2:]] == ["checkpoint", "stop"]


def test_a_terminal_that_closes_leaves_the_run_alone(run: Run) -> None:
    step = run.step()
    run.hang_up()
    log = next(run.home.sessions.glob("*/log.jsonl"))
    if sys.platform == "linux":
        links = [Path(f"/proc/{run.screen.pid}/fd/{n}") for n in (0, 1, 2)]
        until(lambda: [link.resolve() for link in links] == [Path("/dev/null"), log, log], "the redirection")
    until(lambda: run.step() > step, "another step")
    stopped = invoke(run.home, "stop")
    assert stopped.code == 0
    assert "done: first stopped, with a checkpoint at step" in stopped.err
    assert run.exit_code() == 12
    # Neither bar nor report was written where only the log belongs.
    assert all(line.startswith("{") for line in log.read_text("utf-8").splitlines())


def test_a_hang_up_by_signal_alone_gives_the_terminal_back(run: Run) -> None:
    step = run.step()
    os.kill(run.screen.pid, signal.SIGHUP)
    run.screen.expect("training goes on without this terminal")
    assert "\x1b[?25h" in run.screen.before
    until(lambda: run.step() > step, "another step")
    # The second signal has no terminal to put right any more, and the log is none.
    os.kill(run.screen.pid, signal.SIGTERM)
    os.kill(run.screen.pid, signal.SIGTERM)
    assert run.exit_code() == 143
    log = next(run.home.sessions.glob("*/log.jsonl"))
    assert all(line.startswith("{") for line in log.read_text("utf-8").splitlines())


def test_drawing_in_the_background_stops_nobody(signals: Signals) -> None:
    assert signal.getsignal(signal.SIGTTOU) is signal.SIG_IGN


def test_a_terminal_that_stalls_does_not_delay_a_checkpoint(run: Run) -> None:
    run.screen.send(XOFF)
    stalled = run.beat()
    # By then the display has tried to draw, and waits for the terminal.
    until(lambda: run.beat() > stalled + 4 * TICK_SECONDS, "some progress")
    os.kill(run.screen.pid, signal.SIGTERM)
    assert run.exit_code() == 143
    assert run.facts()["state"] == "stopped"
