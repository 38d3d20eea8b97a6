"""One session and two programs: both see it, both steer it, and only one of them ever runs it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from forge.registry import State
from tests.e2e.conftest import FORGE, FORGE_TUI
from tests.e2e.dashboard import loss_on, step_on, wait_for_a_later_step
from tests.e2e.terminal import Desk, Terminal
from tests.e2e.watch import Watch


@pytest.fixture
def hosting(desk: Desk, endless: Path) -> Terminal:
    """A screen whose program runs a session, at a step past the first."""
    screen = desk.open(FORGE_TUI, "--start", str(endless))
    wait_for_a_later_step(screen)
    return screen


def test_a_second_screen_attaches_steers_and_leaves(desk: Desk, hosting: Terminal, watch: Watch) -> None:
    second = desk.open(FORGE_TUI, size=(80, 24))
    second.wait_for(watch.session().name, "RUNNING")
    wait_for_a_later_step(second)

    second.press("space")
    second.wait_for("PAUSED")
    hosting.wait_for("PAUSED", "in this program")
    beat = watch.beat()
    assert beat is not None
    second.wait_until(lambda: step_on(second) == step_on(hosting) == beat.step, "the same step on both")
    assert not second.sees("in this program")

    second.press("q")
    assert second.ended() == 0
    assert second.restored
    assert watch.session().state is State.PAUSED

    hosting.press("space")
    wait_for_a_later_step(hosting, beat.step)


def test_a_pane_that_was_away_shows_what_came_meanwhile(hosting: Terminal) -> None:
    hosting.press("z")
    hosting.wait_until(lambda: not hosting.sees("numbers"), "one pane on the whole screen")
    loss = loss_on(hosting)
    hosting.wait_until(lambda: loss_on(hosting) != loss, "another loss")
    hosting.press("z")
    hosting.wait_for("numbers")
    wait_for_a_later_step(hosting, step_on(hosting))


def test_of_two_that_resume_one_runs_it_and_the_other_is_told_who(
    desk: Desk, hosting: Terminal, watch: Watch
) -> None:
    hosting.press("s")
    hosting.wait_for("STOPPED")
    hosting.wait_until(lambda: watch.session().lease is None, "the lease given back")
    second = desk.open(FORGE_TUI)
    second.wait_for("STOPPED", "r goes on")
    name, both = watch.session().name, {hosting, second}

    hosting.press("r")
    second.press("r")
    hosting.wait_until(lambda: watch.session().state is State.RUNNING, "the run")
    owner = watch.session().owner or ""
    (winner,) = [screen for screen in both if owner.startswith(f"pid {screen.pid} on ")]
    (loser,) = both - {winner}
    winner.wait_for("RUNNING", "in this program")
    loser.wait_for("RUNNING", owner)
    assert not loser.sees("in this program")

    third = desk.open(FORGE, "resume", name)
    assert third.ended() == 5
    assert f"{name} is running in {owner} since" in third.said
    assert f"forge-tui {name}" in third.said
    winner.wait_until(lambda: winner.sees("tok/s"), "the run goes on")
    assert watch.session().owner == owner


def test_a_dead_owner_is_noticed_and_its_session_resumed(desk: Desk, hosting: Terminal, watch: Watch) -> None:
    second = desk.open(FORGE_TUI)
    second.wait_for("RUNNING")
    hosting.signal(signal.SIGKILL)
    second.wait_for("INTERRUPTED", "r goes on")
    # It is shown at once, and written down a little later.
    second.wait_until(lambda: watch.session().state is State.INTERRUPTED, "the record")
    second.press("r")
    second.wait_for("RUNNING", "in this program", "tok/s")
