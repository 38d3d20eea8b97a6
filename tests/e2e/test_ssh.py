"""A run over a real SSH link that stalls and breaks is bit for bit the run that it would have been."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.engine import Engine
from forge.home import Home
from forge.registry import State
from tests.e2e import sshd
from tests.e2e.conftest import FORGE, FORGE_TUI, write_config
from tests.e2e.dashboard import wait_for_a_later_step
from tests.e2e.terminal import PATIENCE, Desk
from tests.e2e.watch import Watch
from tests.unit.engine.killing import Outcome, outcome

PRETRAIN, FORGING = 600, 50


@pytest.fixture
def server(tmp_path: Path, env: dict[str, str]) -> Iterator[sshd.Server]:
    """A server that gives everybody the environment of the other tests here."""
    if missing := sshd.missing():
        assert "CI" not in os.environ, f"CI installs OpenSSH; not found: {', '.join(missing)}"
        pytest.skip(f"not found: {', '.join(missing)}; Debian has them in openssh-server and openssh-client")
    made = sshd.Server(tmp_path / "sshd", env)
    yield made
    made.close()


def left_by(home: Home) -> Outcome:
    """What the only session of a home has left."""
    engine = Engine(home)
    try:
        return outcome(engine, engine.find(None).id)
    finally:
        engine.shutdown()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_a_link_that_breaks_costs_no_step_and_changes_no_bit(
    desk: Desk, env: dict[str, str], home: Home, watch: Watch, tmp_path: Path, server: sshd.Server
) -> None:
    config = str(write_config(tmp_path, pretrain=PRETRAIN, forging=FORGING))
    undisturbed = Home(tmp_path / "undisturbed")
    reference = subprocess.Popen(
        [FORGE, "run", config, "--quiet"], env={**env, "FORGE_HOME": str(undisturbed.root)},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    laptop = desk.open(*server.login())
    laptop.press(f"{FORGE_TUI} --start {config}\r")
    laptop.wait_for("RUNNING", "in this program")
    wait_for_a_later_step(laptop)
    assert b"Closing this link is safe" in laptop.raw
    owner = int((watch.session().owner or "").split()[1])

    # The laptop sleeps, and then its link breaks.
    laptop.signal(signal.SIGSTOP)
    desk.wait_until(watch.goes_on(), "more steps")
    laptop.signal(signal.SIGKILL)
    log = home.session(watch.session().id).log
    desk.wait_until(lambda: log.samefile(f"/proc/{owner}/fd/1"), "the output in the log")
    desk.wait_until(watch.goes_on(), "more steps")
    assert watch.session().state is State.RUNNING

    again = desk.open(*server.login(FORGE_TUI))
    again.wait_for(watch.session().name, "RUNNING")
    assert not again.sees("in this program")
    again.press("space")
    again.wait_for("PAUSED")
    beat = watch.beat()
    assert beat is not None
    assert 0 < beat.step < PRETRAIN, "the link is to break in the middle of the run"
    again.press("space")
    wait_for_a_later_step(again, beat.step)
    again.wait_for("COMPLETED", "all phases complete")
    again.press("q")
    assert again.ended() == 0
    desk.wait_until(lambda: not Path(f"/proc/{owner}").exists(), "the end of the program without a screen")
    assert watch.session().lease is None

    assert reference.wait(PATIENCE) == 0
    found, expected = left_by(home), left_by(undisturbed)
    assert [step for step, _ in found.log["pretrain loss"]] == list(range(1, PRETRAIN + 1))
    assert found == expected
