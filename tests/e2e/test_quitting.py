"""Making a session by keys, and every way out of a program that runs one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from forge.registry import State
from tests.e2e.conftest import CORPUS, FORGE, FORGE_TUI
from tests.e2e.dashboard import fill, wait_for_a_later_step
from tests.e2e.terminal import Desk
from tests.e2e.watch import Watch


def stopped_with_a_checkpoint(watch: Watch) -> bool:
    """The session is stopped, nobody holds it, and its last step is in a checkpoint."""
    session, run = watch.session(), watch.phases()["pretrain"]
    newest = [checkpoint.step for checkpoint in watch.checkpoints()][-1:]
    assert (session.state, session.lease) == (State.STOPPED, None)
    return newest == [run.step] and watch.steps("pretrain", "loss") == list(range(1, run.step + 1))


def test_a_session_is_made_by_keys_and_stopped_on_the_way_out(desk: Desk, watch: Watch) -> None:
    screen = desk.open(FORGE_TUI, size=(80, 24))
    screen.wait_for("There is no session here yet")
    screen.press("n")
    screen.wait_for("new session", "< tiny >", "parameters")

    fill(screen, "name", "first light")
    fill(screen, "corpus", "text:/nowhere/*.py")
    screen.wait_for("no file matches")
    screen.press("ctrl+s")
    screen.wait_for("the form has a problem")
    fill(screen, "corpus", f"text:{CORPUS}")
    screen.wait_until(lambda: not screen.sees("no file matches"), "the corpus")
    fill(screen, "seed", "7")
    fill(screen, "pre-training steps", "many")
    screen.wait_for("a whole number is needed")
    fill(screen, "pre-training steps", "100,000")
    screen.wait_until(lambda: not screen.sees("a whole number is needed"), "the steps")
    assert watch.sessions() == []

    screen.press("ctrl+s")
    screen.wait_for("first light", "in this program", "step 0 of 100,000")
    wait_for_a_later_step(screen)
    screen.press("q")
    screen.wait_for("is running in this program", "stay here")
    screen.press("escape")
    screen.wait_until(lambda: not screen.sees("stay here"), "the dialog's end")
    assert watch.session().state is State.RUNNING

    screen.press("q")
    screen.wait_for("stay here")
    screen.press("s")
    assert screen.ended() == 0
    assert screen.restored
    assert watch.session().name == "first light"
    assert stopped_with_a_checkpoint(watch)


def test_training_goes_on_without_its_screen_until_ctrl_c(desk: Desk, endless: Path, watch: Watch) -> None:
    screen = desk.open(FORGE_TUI, "--start", str(endless))
    wait_for_a_later_step(screen)
    screen.press("ctrl+c")
    screen.wait_for("stay here")
    screen.press("b")
    line = r"Pre-training step ([\d,]+) of 1,000,000"
    screen.wait_until(lambda: screen.find(line) is not None, "a plain line")
    assert screen.restored
    screen.wait_for("Ctrl-C stops with a checkpoint")
    first = screen.find(line)
    screen.wait_until(lambda: screen.find(line) != first, "another step")
    assert watch.session().state is State.RUNNING

    screen.press("ctrl+c")
    assert screen.ended() == 128 + signal.SIGINT
    screen.wait_for("stopping at the next step with a checkpoint")
    assert stopped_with_a_checkpoint(watch)


def test_a_run_in_a_process_of_its_own_is_not_asked_about_and_one_line_says_that_it_goes_on(
    desk: Desk, endless: Path, watch: Watch
) -> None:
    endless.write_text(endless.read_text("utf-8").replace("runtime: {", "runtime: {host: process, "), "utf-8")
    screen = desk.open(FORGE_TUI, "--start", str(endless))
    wait_for_a_later_step(screen)
    try:
        screen.press("q")
        assert screen.ended() == 0
        assert screen.restored
        name, owner = watch.session().name, watch.session().owner
        assert owner is not None
        assert f"{name} goes on training in {owner}: Pre-training step " in screen.said
        assert f"forge-tui attaches again. forge stop {name} stops with a checkpoint." in screen.said
        assert str(screen.pid) not in owner
        again = desk.open(FORGE_TUI)
        wait_for_a_later_step(again)
    finally:
        ended = desk.open(FORGE, "stop", size=(100, 24))
        assert ended.ended() == 0

    # What nobody runs any more is not spoken of.
    again.wait_for("STOPPED")
    again.press("q")
    assert again.ended() == 0
    assert "goes on training" not in again.said


@pytest.mark.parametrize("read", [True, False])
def test_a_signal_stops_with_a_checkpoint_and_puts_the_terminal_right(
    desk: Desk, endless: Path, watch: Watch, read: bool
) -> None:
    screen = desk.open(FORGE_TUI, "--start", str(endless))
    wait_for_a_later_step(screen)
    if not read:
        screen.look_away()
        # Every key draws the whole screen, for which there is no room.
        screen.press("z", "z", "z")
        screen.wait_until(watch.goes_on(), "more steps")
    screen.signal(signal.SIGTERM)
    assert screen.ended() == 128 + signal.SIGTERM
    screen.look_again()
    assert screen.restored
    assert stopped_with_a_checkpoint(watch)


def test_from_a_laptop_that_sleeps_another_takes_over(desk: Desk, endless: Path, watch: Watch) -> None:
    laptop = desk.open(FORGE_TUI, "--start", str(endless))
    wait_for_a_later_step(laptop)
    laptop.look_away()
    laptop.press("z", "z", "z")
    laptop.wait_until(watch.goes_on(), "more steps")

    other = desk.open(FORGE_TUI)
    other.wait_for(watch.session().name, "RUNNING")
    other.press("s")
    other.wait_for("STOPPED", "with a checkpoint at step")
    other.wait_until(lambda: watch.session().lease is None, "the lease given back")
    assert stopped_with_a_checkpoint(watch)

    laptop.look_again()
    laptop.press("z")
    laptop.wait_for("STOPPED", "r goes on")
    laptop.press("q")
    assert laptop.ended() == 0
    assert laptop.restored


def spent(pid: int) -> dict[str, int]:
    """Ticks of processor time that each thread of a process has had."""
    times = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text("utf-8").rpartition(")")[2].split()
        times[task.name] = int(fields[11]) + int(fields[12])
    return times


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_without_its_terminal_a_program_only_trains(desk: Desk, endless: Path, watch: Watch) -> None:
    screen = desk.open(FORGE_TUI, "--start", str(endless))
    wait_for_a_later_step(screen)
    screen.hang_up()
    screen.wait_until(watch.goes_on(), "more steps")

    before, after = spent(screen.pid), dict[str, int]()

    def a_second_of_training() -> bool:
        now = spent(screen.pid)
        after.update({task: ticks - before.get(task, 0) for task, ticks in now.items()})
        return max(after.values()) >= os.sysconf("SC_CLK_TCK")

    screen.wait_until(a_second_of_training, "a second of training")
    *others, training = sorted(after.values())
    # What is left is told, measured and recorded; a thread that reads a dead terminal would take all it gets.
    assert sum(others) < training / 4

    screen.signal(signal.SIGTERM)
    assert screen.ended() == 128 + signal.SIGTERM
    assert stopped_with_a_checkpoint(watch)
