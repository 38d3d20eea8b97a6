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
from tests.ui.seed import FIRST, FakeEngine
from tests.ui.stage import LARGE
from tests.ui.terminal import PATIENCE, ROOT, Terminal, left_alternate_screen

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


def hosted(home: Home, marker: Path, mode: str = "plain") -> Terminal:
    """The application with a pretended run, on a terminal."""
    return Terminal(["-m", "tests.ui.hosted", str(home.root), str(marker), mode])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_and_restores_the_terminal(
    seeded: Seeded, tmp_path: Path, number: signal.Signals
) -> None:
    marker = tmp_path / "marker"
    with hosted(seeded("running"), marker) as terminal:
        terminal.wait_for("RUNNING")
        os.kill(terminal.pid, number)
        assert terminal.wait_for_exit() == 128 + number
        assert terminal.cooked
        assert left_alternate_screen(terminal.raw.getvalue())
    assert marker.read_text("utf-8") == "checkpoint"


def test_a_second_signal_ends_a_run_that_does_not_stop(seeded: Seeded, tmp_path: Path) -> None:
    with hosted(seeded("running"), tmp_path / "marker", "stuck") as terminal:
        terminal.wait_for("RUNNING")
        os.kill(terminal.pid, signal.SIGTERM)
        terminal.wait_for("SIGTERM: stopping at the next step with a checkpoint")
        os.kill(terminal.pid, signal.SIGINT)
        assert terminal.wait_for_exit() == 130
        assert terminal.cooked
        assert left_alternate_screen(terminal.raw.getvalue())


def test_a_lost_terminal_loses_no_training(seeded: Seeded, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with hosted(seeded("running"), marker) as terminal:
        terminal.wait_for("RUNNING")
        terminal.hang_up()
        assert terminal._child.wait() in (None, 128 + signal.SIGHUP)
    assert marker.read_text("utf-8") == "checkpoint"


def test_a_crash_restores_the_terminal_and_stops_the_run(seeded: Seeded, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with hosted(seeded("running"), marker, "crash") as terminal:
        assert terminal.wait_for_exit() == 1
        assert terminal.cooked
        raw = terminal.raw.getvalue()
    assert left_alternate_screen(raw)
    assert b"a bug in the screen" in raw[raw.rfind(b"\x1b[?1049l") :]
    assert marker.read_text("utf-8") == "checkpoint"


def test_training_goes_on_without_a_screen(seeded: Seeded, tmp_path: Path) -> None:
    with hosted(seeded("running"), tmp_path / "marker", "short") as terminal:
        terminal.wait_for("RUNNING")
        terminal.send("q")
        terminal.wait_for("keep training without it")
        terminal.send("b")
        assert terminal.wait_for_exit() == 0
        assert terminal.cooked
        raw = terminal.raw.getvalue()
    after = raw[raw.rfind(b"\x1b[?1049l") :].decode()
    assert "Pre-training step 310 of 500" in after
    assert "Ctrl-C stops with a checkpoint" in after


def test_training_without_a_screen_is_stopped_by_a_key(seeded: Seeded, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with hosted(seeded("running"), marker) as terminal:
        terminal.wait_for("RUNNING")
        terminal.send("q")
        terminal.wait_for("keep training without it")
        terminal.send("b")
        terminal.wait_for("Ctrl-C stops with a checkpoint")
        terminal.send("\x03")
        assert terminal.wait_for_exit() == 130
        assert "stopping at the next step with a checkpoint" in terminal.text
    assert marker.read_text("utf-8") == "checkpoint"


# --- the command ----------------------------------------------------------------------------------------


def forge_tui(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`forge-tui` without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "forge_tui", *arguments],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=PATIENCE, stdin=subprocess.DEVNULL,
        env={**os.environ, "FORGE_HOME": str(home), **env},
    )  # fmt: skip


def test_without_a_terminal_it_says_what_to_do(tmp_path: Path) -> None:
    result = forge_tui(home=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "this is not a terminal" in result.stderr
    assert "ssh -t" in result.stderr
    assert "forge status" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_version_needs_no_terminal(tmp_path: Path) -> None:
    result = forge_tui("--version", home=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith("forge-tui ")
    assert "sqlite" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--start", "no-such-preset"], 4, "no-such-preset"),
        (["--start", "tiny", "otter"], 3, "leave out SESSION"),
        (["--start", "tiny", "--readonly"], 3, "leave out SESSION and --readonly"),
        (["nobody"], 4, 'there is no session "nobody"'),
        (["--nonsense"], 2, "unrecognized arguments"),
    ],
)
def test_mistakes_are_told_before_the_screen_opens(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    with Terminal(["-m", "forge_tui", *arguments], FORGE_HOME=str(tmp_path)) as terminal:
        assert terminal.wait_for_exit() == code
        assert said in " ".join(terminal.text.split())
        assert b"\x1b[?1049h" not in terminal.raw.getvalue()


def test_a_dumb_terminal_is_refused(tmp_path: Path) -> None:
    with Terminal(["-m", "forge_tui"], FORGE_HOME=str(tmp_path), TERM="dumb") as terminal:
        assert terminal.wait_for_exit() == 2
        assert 'TERM is "dumb"' in " ".join(terminal.text.split())


def test_a_terminal_without_utf8_gets_ascii(seeded: Seeded) -> None:
    env = {
        "FORGE_HOME": str(seeded("running").root),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    with Terminal(["-m", "forge_tui", "--readonly"], LARGE, **env) as terminal:
        assert "swift-otter-12" in terminal.wait_for("RUNNING")
        assert terminal.text.isascii()
        terminal.send("q")
        assert terminal.wait_for_exit() == 0
