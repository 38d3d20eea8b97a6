"""The life of the process: signals, a lost terminal, a crash, and training that goes on without a screen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forge.home import Home
from forge_tui import life
from forge_tui.life import Signals
from tests.conftest import ROOT
from tests.e2e.terminal import PATIENCE, Desk, Terminal
from tests.ui.seed import FIRST, FakeEngine

Seeded = Callable[[str], Home]


@pytest.fixture
def handlers() -> Iterator[None]:
    """Gives the signals' handlers back."""
    before = {number: signal.getsignal(number) for number in life.STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Heard:
    """What the screen was told, and how the process was ended."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.left: list[int] = []
        self.ended: list[int] = []
        self.leaving = threading.Event()
        self.ending = threading.Event()

    def leave(self, code: int) -> None:
        """The screen is asked to leave."""
        self.left.append(code)
        self.leaving.set()

    def end(self, code: int) -> None:
        """The process ends."""
        self.ended.append(code)
        self.ending.set()


def signals(engine: FakeEngine | None) -> tuple[Signals, Heard]:
    """Installed handlers that end nothing."""
    heard = Heard()
    made = Signals(engine, heard.told.append, heard.leave, heard.end)
    made.install()
    return made, heard


# --- handlers -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", life.STOPPING)
def test_a_signal_stops_the_run_and_then_the_screen(number: signal.Signals) -> None:
    engine = FakeEngine(hosting=FIRST)
    made, heard = signals(engine)
    signal.raise_signal(number)
    assert heard.leaving.wait(PATIENCE)
    assert engine.calls == [("shutdown", False)]
    assert (heard.told, heard.left) == ([number], [128 + number])
    assert made.finished() == 128 + number
    assert heard.ended == []


@pytest.mark.usefixtures("handlers")
def test_without_a_signal_there_is_nothing_to_wait_for() -> None:
    made, heard = signals(FakeEngine())
    assert made.finished() is None
    assert (heard.told, heard.left, heard.ended) == ([], [], [])


@pytest.mark.usefixtures("handlers")
def test_a_screen_that_cannot_leave_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "LEAVE_SECONDS", 0.0)
    _, heard = signals(None)
    signal.raise_signal(signal.SIGTERM)
    assert heard.ending.wait(PATIENCE)
    assert heard.ended == [143]


@pytest.mark.usefixtures("handlers")
def test_a_second_signal_waits_for_nothing() -> None:
    stuck = threading.Event()

    class Stuck(FakeEngine):
        def shutdown(self, *, keep_training: bool) -> None:
            stuck.wait(PATIENCE)

    made, heard = signals(Stuck(hosting=FIRST))
    signal.raise_signal(signal.SIGINT)
    assert heard.ended == []
    signal.raise_signal(signal.SIGINT)
    assert heard.ended == [130]
    stuck.set()
    assert made.finished() == 130


@pytest.mark.usefixtures("handlers")
def test_an_engine_that_fails_does_not_keep_the_screen() -> None:
    _, heard = signals(FakeEngine(fail=RuntimeError("no disk")))
    signal.raise_signal(signal.SIGTERM)
    assert heard.leaving.wait(PATIENCE)


@pytest.mark.usefixtures("handlers")
def test_what_the_parent_wants_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals(None)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


# --- processes ------------------------------------------------------------------------------------------


def hosted(desk: Desk, home: Home, marker: Path, mode: str = "plain") -> Terminal:
    """The application with a pretended run, on a terminal."""
    return desk.open(sys.executable, "-m", "tests.ui.hosted", str(home.root), str(marker), mode)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_and_restores_the_terminal(
    seeded: Seeded, desk: Desk, tmp_path: Path, number: signal.Signals
) -> None:
    screen = hosted(desk, seeded("running"), tmp_path / "marker")
    screen.wait_for("RUNNING")
    screen.signal(number)
    assert screen.ended() == 128 + number
    assert screen.restored
    assert (tmp_path / "marker").read_text("utf-8") == "checkpoint"


def test_a_second_signal_ends_a_run_that_does_not_stop(seeded: Seeded, desk: Desk, tmp_path: Path) -> None:
    screen = hosted(desk, seeded("running"), tmp_path / "marker", "stuck")
    screen.wait_for("RUNNING")
    screen.signal(signal.SIGTERM)
    screen.wait_for("SIGTERM: stopping at the next step with a checkpoint")
    screen.signal(signal.SIGINT)
    assert screen.ended() == 130
    assert screen.restored


def test_a_lost_terminal_loses_no_training(seeded: Seeded, desk: Desk, tmp_path: Path) -> None:
    screen = hosted(desk, seeded("running"), tmp_path / "marker")
    screen.wait_for("RUNNING")
    screen._process.ptyproc.fileobj.close()
    assert screen._process.wait() == 128 + signal.SIGHUP
    assert (tmp_path / "marker").read_text("utf-8") == "checkpoint"


def test_a_crash_restores_the_terminal_and_stops_the_run(seeded: Seeded, desk: Desk, tmp_path: Path) -> None:
    screen = hosted(desk, seeded("running"), tmp_path / "marker", "crash")
    assert screen.ended() == 1
    assert screen.restored
    assert "a bug in the screen" in screen.text
    assert (tmp_path / "marker").read_text("utf-8") == "checkpoint"


def test_training_goes_on_without_a_screen(seeded: Seeded, desk: Desk, tmp_path: Path) -> None:
    screen = hosted(desk, seeded("running"), tmp_path / "marker", "short")
    screen.wait_for("RUNNING")
    screen.press("q")
    screen.wait_for("keep training without it")
    screen.press("b")
    assert screen.ended() == 0
    assert screen.restored
    assert "Pre-training step 310 of 500" in screen.text
    assert "Ctrl-C stops with a checkpoint" in screen.text


def test_training_without_a_screen_is_stopped_by_a_key(seeded: Seeded, desk: Desk, tmp_path: Path) -> None:
    screen = hosted(desk, seeded("running"), tmp_path / "marker")
    screen.wait_for("RUNNING")
    screen.press("q")
    screen.wait_for("keep training without it")
    screen.press("b")
    screen.wait_for("Ctrl-C stops with a checkpoint")
    screen.press("ctrl+c")
    assert screen.ended() == 130
    assert "stopping at the next step with a checkpoint" in screen.text
    assert (tmp_path / "marker").read_text("utf-8") == "checkpoint"


def test_a_terminal_without_utf8_gets_ascii(seeded: Seeded, desk: Desk) -> None:
    env = {
        "LANG": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "FORGE_HOME": str(seeded("running").root),
    }
    screen = desk.open(sys.executable, "-m", "forge_tui", "--readonly", env=env)
    screen.wait_for("swift-otter-12", "RUNNING")
    assert screen.text.isascii()
    screen.press("q")
    assert screen.ended() == 0


# --- without a screen -----------------------------------------------------------------------------------


def test_without_a_terminal_it_says_what_to_do(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "forge_tui"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE, stdin=subprocess.DEVNULL,
        env={**os.environ, "FORGE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stdout == ""
    for said in ("this is not a terminal", "ssh -t", "forge status"):
        assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--start", "no-such-preset"], 4, "no-such-preset"),
        (["--start", "tiny", "otter"], 3, "leave out SESSION"),
        (["--start", "tiny", "--readonly"], 3, "leave out SESSION and --readonly"),
        (["nobody"], 4, 'there is no session "nobody"'),
        (["--nonsense"], 2, "unrecognized arguments"),
        (["--version"], 0, "forge-tui "),
    ],
)
def test_what_needs_no_screen_is_said_before_it_opens(
    desk: Desk, arguments: list[str], code: int, said: str
) -> None:
    screen = desk.open(sys.executable, "-m", "forge_tui", *arguments)
    assert screen.ended() == code
    assert said in screen.said
    assert screen.mode_set(1049) is None


def test_a_dumb_terminal_is_refused(desk: Desk) -> None:
    screen = desk.open(sys.executable, "-m", "forge_tui", env={"TERM": "dumb"})
    assert screen.ended() == 2
    assert 'TERM is "dumb"' in screen.said
