"""Runs in processes of their own: from a terminal that then closes, or beside another in one screen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from forge.config import load_config
from forge.engine import Engine
from forge.engine.lease import read_info
from forge.home import Home
from forge.locks import is_held
from forge.registry import State
from tests.e2e.conftest import FORGE, FORGE_TUI
from tests.e2e.dashboard import wait_for_a_later_step
from tests.e2e.terminal import Desk
from tests.e2e.watch import Watch


@pytest.fixture(autouse=True)
def _nothing_outlives_the_test(home: Home) -> Iterator[None]:
    yield
    for lease in home.sessions.glob("*/lease"):
        info = read_info(lease)
        if info is not None and info.pid != os.getpid() and is_held(lease):
            psutil.Process(info.pid).kill()


def test_a_detached_run_survives_its_terminal_and_is_steered_from_another(
    desk: Desk, endless: Path, watch: Watch
) -> None:
    shell = desk.open("/bin/sh", "-c", f"{FORGE} run {endless} --detach; exec cat")
    shell.wait_for("stop:  forge stop")
    name, pid = watch.session().name, int((watch.session().owner or "").split()[1])
    assert f"forge-tui {name}" in shell.said
    # The kernel hangs up on whoever belongs to that terminal.
    shell.signal(signal.SIGHUP)
    shell.close()

    screen = desk.open(FORGE_TUI)
    wait_for_a_later_step(screen)
    screen.wait_for(name, "RUNNING", f"pid {pid} on ")
    assert not screen.sees("in this program")
    screen.press("space")
    screen.wait_for("PAUSED")
    screen.press("space")
    wait_for_a_later_step(screen)
    # It is nobody's here, so nobody is asked.
    screen.press("q")
    assert screen.ended() == 0
    assert screen.restored
    assert psutil.pid_exists(pid)
    assert watch.session().state is State.RUNNING

    stop = desk.open(FORGE, "stop")
    assert stop.ended() == 0
    assert "with a checkpoint at step" in stop.said
    assert watch.session().state is State.STOPPED


def test_a_second_run_of_one_screen_gets_a_process_and_stays_when_the_first_is_stopped(
    desk: Desk, endless: Path, watch: Watch, home: Home
) -> None:
    screen = desk.open(FORGE_TUI, "--start", str(endless))
    wait_for_a_later_step(screen)
    (first,) = watch.sessions()
    assert first.owner is not None
    assert first.owner.startswith(f"pid {screen.pid} on ")
    engine = Engine(home)
    engine.create(load_config(str(endless)), "second")
    engine.shutdown()

    screen.press("L")
    screen.wait_for("second", "created")
    screen.press("g", "r")
    screen.wait_for("second", "RUNNING")
    second = next(row for row in watch.sessions() if row.name == "second")
    assert second.owner is not None
    pid = int(second.owner.split()[1])
    assert pid != screen.pid
    assert not screen.sees("in this program")
    screen.press("q")
    screen.wait_for("is running in this program")
    screen.press("s")
    assert screen.ended() == 0
    states = {row.name: row.state for row in watch.sessions()}
    assert states == {first.name: State.STOPPED, "second": State.RUNNING}
    assert psutil.pid_exists(pid)
