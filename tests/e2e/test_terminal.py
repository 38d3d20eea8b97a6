"""A session from its start to its report, as somebody at a terminal lives it, with a stop on the way.

The screen is only half of each check: what it says is compared with what the registry holds.
"""

from __future__ import annotations

from pathlib import Path

from forge.home import Home
from forge.registry import State
from tests.e2e.conftest import FORGE, FORGE_TUI, STEPS
from tests.e2e.dashboard import loss_on, newer_samples, step_on, wait_for_a_later_step
from tests.e2e.terminal import Desk, Terminal
from tests.e2e.watch import Watch


def watch_it_stand(screen: Terminal, watch: Watch) -> None:
    """Nothing is logged, and the step on the screen stays, while the machine's load is measured thrice."""
    # The first sample after the pause: what the last step logged has been written by then.
    screen.wait_until(newer_samples(watch, 1), "a sample of the machine's load")
    points, step = watch.points(), step_on(screen)
    screen.wait_until(newer_samples(watch, 3), "more samples of the machine's load")
    assert (watch.points(), step_on(screen)) == (points, step)
    beat = watch.beat()
    assert beat is not None
    assert beat.step == step


def test_a_session_is_steered_stopped_resumed_and_reported(
    desk: Desk, short: Path, home: Home, watch: Watch
) -> None:
    screen = desk.open(FORGE_TUI, "--start", str(short))
    screen.wait_for("RUNNING", "nats/token")
    wait_for_a_later_step(screen)

    screen.press("space")
    screen.wait_for("PAUSED", "paused, space goes on")
    assert watch.session().state is State.PAUSED
    watch_it_stand(screen, watch)

    step, loss = step_on(screen), loss_on(screen)
    screen.press("space")
    wait_for_a_later_step(screen, step)
    screen.wait_until(lambda: loss_on(screen) != loss, "another loss")

    screen.press("s")
    screen.wait_for("STOPPED", "r goes on", "with a checkpoint at step")
    screen.wait_until(lambda: watch.session().lease is None, "the lease given back")
    stopped_at = step_on(screen)
    screen.wait_for(f"checkpoint step {stopped_at} ")
    newest = watch.checkpoints()[-1]
    assert newest.step == stopped_at
    assert (home.session(newest.session_id).root / newest.path / "manifest.json").is_file()

    screen.press("q")
    assert screen.ended() == 0
    assert screen.restored

    again = desk.open(FORGE_TUI)
    again.wait_for(watch.session().name, "STOPPED", f"step {stopped_at} of", "r goes on")
    again.press("r")
    again.wait_for("RUNNING")
    again.wait_for("COMPLETED", "all phases complete")
    again.wait_for("report", "full precision", "post-training ternary", "forged ternary", "gap recovered")
    again.press("q")
    assert again.ended() == 0
    assert again.restored

    check_what_is_left(watch)
    check_it_answers(desk, watch)


def check_what_is_left(watch: Watch) -> None:
    """The registry calls it finished, and every step of both phases was logged once."""
    session, phases = watch.session(), watch.phases()
    assert session.state is State.COMPLETED
    assert session.lease is None
    assert {name: run.state for name, run in phases.items()} == dict.fromkeys(phases, State.COMPLETED)
    for phase, steps in STEPS.items():
        assert watch.steps(phase, "loss") == list(range(1, steps + 1))
    assert sorted(model.phase for model in watch.models()) == ["forging", "pretrain"]
    kinds = [command.kind for command in watch.commands()]
    assert kinds == ["pause", "resume", "stop"]
    assert {command.state for command in watch.commands()} == {"done"}


def check_it_answers(desk: Desk, watch: Watch) -> None:
    """The model that was made continues a prompt."""
    prompt = "def "
    arguments = [watch.session().name, prompt, "--max-tokens", "40", "--seed", "1"]
    answer = desk.open(FORGE, "generate", *arguments)
    assert answer.ended() == 0
    answer.wait_for(prompt, "40 tokens")
    assert len(answer.text.split(prompt, 1)[1].split()) > 3
