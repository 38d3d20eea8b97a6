"""The life of the process: signals, a lost terminal, a crash, and training that goes on without a screen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pyte
import pytest

from forge.home import Home
from forge_tui import life
from forge_tui.life import Guard
from forge_tui.ports import CLOSED
from forge_tui.terminal import Terminal as OwnTerminal
from tests.conftest import ROOT
from tests.e2e.terminal import PATIENCE, Desk, Picture, Terminal
from tests.ui import homes
from tests.ui.seed import FIRST, FakeEngine

Seeded = Callable[[str], Home]


# --- handlers -------------------------------------------------------------------------------------------


class Heard:
    """What the screen was told, and how the process was ended."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.left: list[int | None] = []
        self.ended: list[int] = []
        self.leaving = threading.Event()
        self.ending = threading.Event()

    def leave(self, code: int | None) -> None:
        """The screen is asked to leave."""
        self.left.append(code)
        self.leaving.set()

    def end(self, code: int) -> None:
        """The process ends."""
        self.ended.append(code)
        self.ending.set()


class Paper:
    """A terminal that only remembers; a pipe's end stands for its descriptor."""

    def __init__(self, *, stalled: bool = False) -> None:
        self.fd, self._other = os.pipe()
        self.stalled = stalled
        self.gone = False
        self.logs: list[Path | None] = []
        self.put_right_times = 0
        self.last = ""
        self._closed = False

    def give_up(self, log: Path | None) -> None:
        """Remember where its output leads."""
        self.gone = True
        self.logs.append(log)

    def put_right(self, last: str = "") -> None:
        """Count."""
        self.put_right_times += 1
        self.last = last

    def hung_up(self) -> bool:
        """Whether the other end is gone."""
        return self._closed

    def hang_up(self) -> None:
        """The other end goes, without a signal."""
        self._closed = True
        os.close(self._other)


class Stand:
    """A guard at work in this process, with everything around it pretended."""

    def __init__(self, engine: FakeEngine | None, home: Home, *, stalled: bool = False) -> None:
        self.heard, self.paper = Heard(), Paper(stalled=stalled)
        self.guard = Guard(
            engine,
            home,
            cast(OwnTerminal, self.paper),
            self.heard.told.append,
            self.heard.leave,
            self.heard.end,
        )


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    """Makes guards; their handlers are given back."""
    made: list[Stand] = []

    def make(engine: FakeEngine | None, **options: Any) -> Stand:
        made.append(Stand(engine, Home(tmp_path), **options))
        made[-1].guard.__enter__()
        return made[-1]

    yield make
    for each in made:
        each.guard.screen_left()
        each.guard.__exit__(None, None, None)


Stands = Callable[..., Stand]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_and_then_the_screen(stand: Stands, number: signal.Signals) -> None:
    engine = FakeEngine(hosting=FIRST)
    one = stand(engine)
    signal.raise_signal(number)
    assert one.heard.leaving.wait(PATIENCE)
    assert engine.calls == [("shutdown", False)]
    who = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C (SIGINT)"}
    assert engine.reason == f"stopped by {who[number]}"
    assert (one.heard.told, one.heard.left) == ([number], [128 + number])
    assert (one.guard.stop, one.guard.stopped) == (number, FIRST)
    assert one.heard.ended == []
    assert not one.paper.gone


def test_a_hang_up_takes_the_screen_from_a_run_that_goes_on(stand: Stands, tmp_path: Path) -> None:
    engine = FakeEngine(hosting=FIRST)
    one = stand(engine)
    signal.raise_signal(signal.SIGHUP)
    assert one.heard.leaving.wait(PATIENCE)
    assert one.paper.logs == [Home(tmp_path).session(FIRST).log]
    assert (one.heard.left, engine.calls) == ([None], [])
    # Only the signal came: whoever sits there gets the terminal back, and hears what becomes of the run.
    assert one.paper.put_right_times == 1
    assert f"goes on training without its screen, in process {os.getpid()}" in one.paper.last
    signal.raise_signal(signal.SIGHUP)
    one.guard.finish()
    assert (one.heard.left, one.heard.ended, len(one.paper.logs)) == ([None], [], 1)


def test_a_terminal_that_goes_without_a_signal_is_a_hang_up(stand: Stands) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        one = stand(FakeEngine(hosting=FIRST))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        one.paper.hang_up()
        assert one.heard.leaving.wait(PATIENCE)
        assert one.heard.left == [None]
        assert one.paper.put_right_times == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_without_a_terminal_is_stopped_by_a_signal(stand: Stands) -> None:
    engine = FakeEngine(hosting=FIRST)
    one = stand(engine)
    signal.raise_signal(signal.SIGHUP)
    assert one.heard.leaving.wait(PATIENCE)
    one.guard.screen_left()
    signal.raise_signal(signal.SIGTERM)
    one.guard.finish()
    assert engine.calls == [("shutdown", False)]
    assert one.heard.left == [None, 143]
    assert one.heard.ended == []


@pytest.mark.parametrize("engine", [None, FakeEngine()])
def test_without_a_run_a_hang_up_ends_the_program(stand: Stands, engine: FakeEngine | None) -> None:
    one = stand(engine)
    signal.raise_signal(signal.SIGHUP)
    assert one.heard.leaving.wait(PATIENCE)
    assert (one.heard.left, one.paper.logs) == ([129], [None])
    assert (one.paper.put_right_times, one.paper.last) == (1, "")


def test_without_a_signal_nothing_is_done(stand: Stands) -> None:
    one = stand(FakeEngine(hosting=FIRST))
    one.guard.finish()
    assert (one.heard.told, one.heard.left, one.heard.ended) == ([], [], [])
    assert one.guard.stop is None
    assert not one.guard.hung_up


def test_a_screen_that_cannot_leave_is_left_behind(stand: Stands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "LEAVE_SECONDS", 0.0)
    one = stand(None)
    signal.raise_signal(signal.SIGTERM)
    assert one.heard.ending.wait(PATIENCE)
    assert one.heard.ended[0] == 143
    assert one.paper.put_right_times >= 1


def test_a_screen_that_cannot_leave_does_not_end_a_run(
    stand: Stands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "LEAVE_SECONDS", 0.0)
    asked = threading.Semaphore(0)

    class Long(FakeEngine):
        def hosted(self) -> str | None:
            asked.release()
            return super().hosted()

    engine = Long(hosting=FIRST)
    one = stand(engine)
    signal.raise_signal(signal.SIGHUP)
    for _ in range(5):
        assert asked.acquire(timeout=PATIENCE)
    assert one.heard.ended == []
    assert one.heard.left[:2] == [None, None]
    engine.hosting = None
    assert one.heard.ending.wait(PATIENCE)
    assert one.heard.ended[0] == 129


def test_a_screen_that_nobody_reads_is_released(stand: Stands) -> None:
    one = stand(FakeEngine(hosting=FIRST), stalled=True)
    signal.raise_signal(signal.SIGTERM)
    assert one.heard.leaving.wait(PATIENCE)
    one.guard.finish()
    assert (one.paper.put_right_times, one.paper.logs) == (1, [None])
    assert one.heard.ended == []


def test_a_second_signal_waits_for_nothing(stand: Stands) -> None:
    stuck = threading.Event()

    class Stuck(FakeEngine):
        def shutdown(self, *, keep_training: bool, reason: str = CLOSED) -> None:
            stuck.wait(PATIENCE)

    one = stand(Stuck(hosting=FIRST))
    signal.raise_signal(signal.SIGINT)
    assert one.heard.ended == []
    signal.raise_signal(signal.SIGINT)
    assert one.heard.ended == [130]
    assert one.paper.put_right_times == 1
    stuck.set()


def test_an_engine_that_fails_does_not_keep_the_screen(stand: Stands) -> None:
    one = stand(FakeEngine(fail=RuntimeError("no disk")))
    signal.raise_signal(signal.SIGTERM)
    assert one.heard.leaving.wait(PATIENCE)


def test_handlers_are_given_back(stand: Stands, tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *life.BORROWED)
    before = [signal.getsignal(number) for number in numbers]
    one = Stand(None, Home(tmp_path))
    with one.guard:
        one.guard.screen_left()
        assert signal.getsignal(signal.SIGTSTP) == one.guard._on_suspend
    assert [signal.getsignal(number) for number in numbers] == before


# --- processes ------------------------------------------------------------------------------------------


class Hosted:
    """The application with a pretended run, on a terminal of its own and over a home of its own."""

    def __init__(self, desk: Desk, folder: Path, *modes: str, home: str = "running") -> None:
        self.desk, self.folder, self.modes = desk, folder, modes
        self.home = homes.make(home, folder / "seeded")
        self.command = (sys.executable, "-m", "tests.ui.hosted", str(self.home.root), str(folder), *modes)

    def open(self) -> Terminal:
        """Start it and wait for its screen."""
        screen = self.desk.open(*self.command)
        screen.wait_for("RUNNING")
        return screen

    @property
    def steps(self) -> int:
        """How many the run has made."""
        path = self.folder / "steps"
        return path.stat().st_size if path.exists() else 0

    @property
    def threads(self) -> set[str]:
        """Names of the program's threads."""
        path = self.folder / "threads"
        return set(path.read_text("utf-8").split("\n")) if path.exists() else set()

    @property
    def stopped(self) -> bool:
        """Whether it was stopped with a checkpoint."""
        return (self.folder / "checkpoint").exists()

    @property
    def log(self) -> Path:
        """The session's log."""
        return self.home.session(FIRST).log

    def goes_on(self, screen: Terminal, count: int = 50) -> None:
        """The run makes so many steps more."""
        before = self.steps
        screen.wait_until(lambda: self.steps >= before + count, "more steps")

    def let_end(self) -> None:
        """The run comes to its end."""
        (self.folder / "end").touch()


def test_a_signal_checkpoints_and_restores_the_terminal(desk: Desk, tmp_path: Path) -> None:
    run = Hosted(desk, tmp_path)
    screen = run.open()
    screen.signal(signal.SIGINT)
    assert screen.ended() == 130
    assert screen.restored
    assert run.stopped
    assert "forge resume swift-otter-12" in screen.said


def test_a_second_signal_ends_a_run_that_does_not_stop(desk: Desk, tmp_path: Path) -> None:
    screen = Hosted(desk, tmp_path, "stuck").open()
    screen.signal(signal.SIGTERM)
    screen.wait_for("SIGTERM: stopping at the next step with a checkpoint")
    screen.signal(signal.SIGINT)
    assert screen.ended() == 130
    assert screen.restored


SCREEN_THREADS = {"textual-input", "textual-output"}


def leads(pid: int) -> set[str]:
    """Where a process's descriptors lead."""
    return {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", ["closed", "ignored"])
def test_a_lost_terminal_loses_no_step(desk: Desk, tmp_path: Path, how: str) -> None:
    run = Hosted(desk, tmp_path)
    if how == "ignored":
        # No signal tells of it, as after `trap '' HUP` in the shell.
        run.command = ("/bin/sh", "-c", f"trap '' HUP; exec {' '.join(run.command)}")
    screen = run.open()
    screen.wait_until(lambda: run.threads >= SCREEN_THREADS, "the screen's threads")
    screen.hang_up()
    screen.wait_until(lambda: not run.threads & SCREEN_THREADS, "the end of the screen's threads")
    links = [str(Path(f"/proc/{screen.pid}/fd/{number}").readlink()) for number in (0, 1, 2)]
    assert links == [os.devnull, str(run.log), str(run.log)]
    assert not [lead for lead in leads(screen.pid) if lead.startswith("/dev/pts/")]
    run.goes_on(screen)
    assert not run.stopped
    run.let_end()
    assert screen.ended() == 0


def test_a_hang_up_without_a_run_ends_the_program(desk: Desk, tmp_path: Path) -> None:
    screen = Hosted(desk, tmp_path, "idle").open()
    screen.hang_up()
    assert screen.ended() == 129


def test_a_hang_up_by_signal_alone_gives_the_terminal_back(desk: Desk, tmp_path: Path) -> None:
    run = Hosted(desk, tmp_path)
    screen = run.open()
    screen.signal(signal.SIGHUP)
    screen.wait_for("swift-otter-12 goes on training without its screen", "forge-tui attaches again")
    assert screen.restored
    run.goes_on(screen)
    assert not run.stopped
    screen.press("ctrl+c")
    assert screen.ended() == 130
    assert run.stopped


def test_a_hang_up_by_signal_alone_without_a_run_gives_it_back_too(desk: Desk, tmp_path: Path) -> None:
    screen = Hosted(desk, tmp_path, "idle").open()
    screen.signal(signal.SIGHUP)
    assert screen.ended() == 129
    assert screen.restored


def test_a_terminal_that_nobody_reads_keeps_neither_steps_nor_a_stop(desk: Desk, tmp_path: Path) -> None:
    run = Hosted(desk, tmp_path)
    screen = run.open()
    screen.look_away()
    screen.press("z")
    run.goes_on(screen, 100)
    screen.signal(signal.SIGTERM)
    assert screen.ended() == 143
    assert run.stopped
    screen.look_again()
    assert screen.restored


def test_a_crash_restores_the_terminal_and_keeps_training(desk: Desk, tmp_path: Path) -> None:
    run = Hosted(desk, tmp_path, "crash")
    screen = desk.open(*run.command)
    screen.wait_for("goes on training without its screen")
    assert "a bug in the screen" in screen.raw.decode()
    assert screen.restored
    run.goes_on(screen)
    run.let_end()
    assert screen.ended() == 1
    assert not run.stopped


def test_what_libraries_print_goes_to_the_log(desk: Desk, tmp_path: Path) -> None:
    run = Hosted(desk, tmp_path, "noisy")
    screen = run.open()
    screen.wait_until(lambda: run.log.exists() and "warns" in run.log.read_text(), "both lines in the log")
    assert run.log.read_text("utf-8") == "a C library prints\na Python library warns\n"
    screen.press("z")
    run.let_end()
    screen.press("q")
    assert screen.ended() == 0
    assert b"library" not in screen.raw


# --- training without a screen --------------------------------------------------------------------------


def kept(desk: Desk, folder: Path, *modes: str) -> tuple[Hosted, Terminal]:
    """A run whose screen was left."""
    run = Hosted(desk, folder, *modes)
    screen = run.open()
    screen.press("q")
    screen.wait_for("keep training without it")
    screen.press("b")
    screen.wait_for(
        "Closing this terminal is safe", "forge-tui attaches again", "Ctrl-C stops with a checkpoint"
    )
    screen.wait_for("Pre-training step 310 of 500")
    assert screen.restored
    return run, screen


def test_training_goes_on_without_a_screen(desk: Desk, tmp_path: Path) -> None:
    run, screen = kept(desk, tmp_path)
    lines, quiet = screen.text.count("\n"), len(screen.raw)
    run.goes_on(screen)
    assert screen.text.count("\n") == lines
    assert b"\a" not in screen.raw[quiet:]
    run.let_end()
    assert screen.ended() == 0
    assert screen.restored
    assert not run.stopped
    assert b"\a" in screen.raw[quiet:]


def test_without_a_screen_ctrl_c_stops_with_a_checkpoint(desk: Desk, tmp_path: Path) -> None:
    run, screen = kept(desk, tmp_path)
    screen.press("ctrl+c")
    assert screen.ended() == 130
    screen.wait_for("stopping at the next step with a checkpoint", "forge resume swift-otter-12")
    assert run.stopped


def test_without_a_screen_a_second_ctrl_c_waits_for_nothing(desk: Desk, tmp_path: Path) -> None:
    run, screen = kept(desk, tmp_path, "stuck")
    screen.press("ctrl+c")
    screen.wait_for("stopping at the next step with a checkpoint; once more ends at once")
    run.goes_on(screen)
    screen.press("ctrl+c")
    assert screen.ended() == 130
    assert screen.restored
    assert not run.stopped


def test_without_a_screen_a_closed_terminal_is_safe(desk: Desk, tmp_path: Path) -> None:
    run, screen = kept(desk, tmp_path)
    screen.hang_up()
    run.goes_on(screen)
    assert not run.stopped
    run.let_end()
    assert screen.ended() == 0


def test_without_a_screen_ctrl_z_suspends_nothing(desk: Desk, tmp_path: Path) -> None:
    run, screen = kept(desk, tmp_path)
    screen.press("ctrl+z")
    screen.wait_for("Ctrl-Z would suspend the training too, so it is ignored")
    run.goes_on(screen)
    assert not screen.suspended
    run.let_end()
    assert screen.ended() == 0


def test_a_program_that_trains_is_not_suspended(desk: Desk, tmp_path: Path) -> None:
    run = Hosted(desk, tmp_path)
    screen = run.open()
    screen.signal(signal.SIGTSTP)
    screen.wait_for("This program trains and is not suspended")
    run.goes_on(screen)
    screen.signal(signal.SIGTERM)
    assert screen.ended() == 143


def test_a_program_that_only_looks_is_suspended_and_comes_back(desk: Desk, tmp_path: Path) -> None:
    screen = Hosted(desk, tmp_path, "idle").open()
    screen.signal(signal.SIGTSTP)
    screen.wait_until(lambda: screen.suspended, "the suspension")
    assert screen.restored
    screen.signal(signal.SIGCONT)
    screen.wait_until(lambda: screen.mode_set(1049) is True, "the screen")
    screen.press("q")
    assert screen.ended() == 0
    assert screen.restored


# --- what a killed screen leaves ------------------------------------------------------------------------


@pytest.fixture
def twice(desk: Desk, tmp_path: Path) -> tuple[Hosted, Terminal]:
    """A program, and a shell on a terminal that has started it and starts it again when it has ended."""
    run = Hosted(desk, tmp_path, "idle")
    line = " ".join(run.command)
    screen = desk.open("/bin/sh", "-c", f"{line}; {line}; echo both ended; read answer")
    screen.wait_for("RUNNING")
    return run, screen


def see_the_second(screen: Terminal, *, killed: bool = False) -> None:
    """Wait for the screen of the second start, and leave it."""

    def drawn() -> bool:
        *_, second = screen.raw.rsplit(b"\x1b[?1049h", 1)
        return screen.raw.count(b"\x1b[?1049h") == 2 and b"RUNNING" in second

    screen.wait_until(drawn, "the second screen")
    if killed:
        screen.wait_for("forge-tui was killed on this")
        assert not screen.restored, "it is said on the screen"
    screen.press("q")
    screen.wait_for("both ended")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_after_a_kill_the_next_start_puts_the_terminal_right_and_says_how(
    twice: tuple[Hosted, Terminal],
) -> None:
    run, screen = twice
    (process,) = (
        int(each) for each in Path(f"/proc/{screen.pid}/task/{screen.pid}/children").read_text().split()
    )
    assert len(list(run.home.screens.iterdir())) == 1
    os.kill(process, signal.SIGKILL)
    see_the_second(screen, killed=True)
    assert f"forge-tui was killed on this terminal (process {process})" in screen.said
    assert "type: reset (or: stty sane)" in screen.said
    # Also below the screen, where a person looks who has left it.
    assert "odd here (a forge-tui was killed before), type: reset" in screen.said.rpartition("stty sane")[2]
    assert screen.restored
    assert list(run.home.screens.iterdir()) == []


def test_half_a_sequence_of_a_killed_screen_is_passed_over() -> None:
    picture = Picture(10, 1)
    pyte.ByteStream(picture).feed(b"kept\x1b[38;5" + b"\x1b[K" + b"\x1b[38K" + b"\x1b[38J")
    assert picture.display[0].startswith("kept")


def test_after_a_clean_end_nothing_is_said(twice: tuple[Hosted, Terminal]) -> None:
    _, screen = twice
    screen.press("q")
    see_the_second(screen)
    assert "forge-tui was killed" not in screen.said


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "leader": 0}'])
def test_a_note_that_says_nothing_is_ignored(tmp_path: Path, content: str) -> None:
    from forge_tui.notes import killed

    home = Home(tmp_path)
    home.screens.mkdir()
    (home.screens / "dev-pts-77").write_text(content, "utf-8")
    assert killed(home, "/dev/pts/77") is None
    assert killed(home, "/dev/pts/78") is None


# --- tmux -----------------------------------------------------------------------------------------------


@pytest.fixture
def tmux(tmp_path: Path, desk: Desk) -> Iterator[Callable[..., str]]:
    """Asks a tmux server of this test's own."""
    if shutil.which("tmux") is None:
        assert "CI" not in os.environ, "CI installs tmux"
        pytest.skip("there is no tmux")
    socket = tmp_path / "tmux"

    def ask(*arguments: str) -> str:
        result = subprocess.run(
            ["tmux", "-S", str(socket), "-f", os.devnull, *arguments],
            capture_output=True, text=True, check=True, timeout=PATIENCE, cwd=ROOT, env=desk.env,
        )  # fmt: skip
        return result.stdout

    yield ask
    ask("kill-server")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_tmux_pane_loses_no_step(desk: Desk, tmp_path: Path, tmux: Callable[..., str]) -> None:
    run = Hosted(desk, tmp_path)
    tmux("new-session", "-d", "-s", "keep", "-x", "80", "-y", "24", "sleep 600")
    pid = int(tmux("new-window", "-t", "keep", "-P", "-F", "#{pane_pid}", " ".join(run.command)))
    desk.wait_until(lambda: "RUNNING" in tmux("capture-pane", "-p", "-t", "keep:1"), "the screen")
    tmux("kill-pane", "-t", "keep:1")
    desk.wait_until(lambda: not run.threads & SCREEN_THREADS, "the end of the screen")
    before = run.steps
    desk.wait_until(lambda: run.steps >= before + 50, "more steps")
    assert not run.stopped
    os.kill(pid, signal.SIGTERM)
    desk.wait_until(lambda: run.stopped, "the checkpoint")
