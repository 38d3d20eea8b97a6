"""Real `tiny` runs in programs of their own that take turns: each stands still except while it is measured.

Stopped with SIGSTOP between its turns, a run keeps its warm state, so turns can be short and many, and a
machine that is slow for a while is slow for every side.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType

from forge.config import dump_yaml, load_config
from forge.home import Home
from forge.registry import Heartbeat, fetch, open_reader, queries, sqlite
from forge.validate.child import program
from forge.validate.terminal import Terminal

SETTLE_SECONDS = 1.0
"""A run that goes on fills its caches again before its steps count."""
START_SECONDS = 180.0
CLOSE_SECONDS = 2.0
"""Nobody needs what a measured run would still save, and it may be long until its first step."""
WARM_STEPS = 5
LOG = "measured.log"
"""What a headless run writes, in the home's folder."""
_STEPS = 1_000_000  # more than any measurement takes; nor do evaluation and checkpoints disturb it
_SETTINGS = (
    f"pretrain.steps={_STEPS}",
    f"pretrain.eval_every={_STEPS}",
    f"runtime.checkpoint_every={_STEPS}",
    "data.max_bytes=1000000",
)
Beside = Callable[[], AbstractContextManager[object]]
Log = Callable[[], bytes]
"""What a program has written so far."""
_FORGE = """
from forge.registry import sqlite
sqlite.JOURNAL = "{journal}"
from forge.cli import main
main()
"""
SCREEN = """
from forge_tui.__main__ import main
sys.exit(main())
"""
"""`forge-tui`: a program of its own here too, for no part of the engine imports the screen."""


class Training:
    """A session that trains in another process; stands still once it has been made."""

    def __init__(
        self, home: Home, process: subprocess.Popen[bytes], close: Callable[[], None], log: Log
    ) -> None:
        self.home = home
        self.process = process
        self._close = close
        self._log = log
        try:
            self.session_id = self._wait_until_stepping()
            self.stop()
        except BaseException:
            close()
            raise

    @classmethod
    def headless(cls, home: Home, *settings: str, journal: sqlite.Journal | None = None) -> Training:
        """`forge run --quiet`."""
        command = [*program(_FORGE.format(journal=journal or sqlite.JOURNAL)), "run"]
        config, log = write_config(home, *settings), home.root / LOG
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, config, "--quiet", "--home", home.root],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

        def close() -> None:
            # A run that is stopped hears of it only when it goes on.
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            _wait_or_kill(process)

        return cls(home, process, close, log.read_bytes)

    @classmethod
    def on_screen(cls, home: Home, *settings: str) -> tuple[Training, Terminal]:
        """`forge-tui --start` in a terminal."""
        config = write_config(home, *settings)
        terminal = Terminal([*program(SCREEN), "--home", home.root, "--start", config])
        return cls(
            home, terminal.process, lambda: terminal.close(CLOSE_SECONDS), lambda: terminal.output
        ), terminal

    def stop(self) -> None:
        """Stand still."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Train again."""
        self.process.send_signal(signal.SIGCONT)

    def step_seconds(self, seconds: float, beside: Beside = nullcontext) -> float:
        """Train for a while; returns the mean time of a step, and stands still again.

        Args:
            seconds: how long steps are counted.
            beside: makes what goes on meanwhile. It is over before the run stands still: stopped in the
                middle of a transaction, a run may keep others waiting.
        """
        since = time.time()
        self.go_on()
        try:
            with beside():
                time.sleep(SETTLE_SECONDS)
                first = self._beat_after(since)
                time.sleep(seconds)
                last = self._beat_after(first.at)
        finally:
            self.stop()
        return (last.at - first.at) / (last.step - first.step)

    def close(self) -> None:
        """End it."""
        self._close()

    def __enter__(self) -> Training:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_stepping(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            found = list(self.home.sessions.glob("*/metrics.db"))
            beat = self._beat(found[0]) if found else None
            if beat is not None and beat.step >= WARM_STEPS:
                return found[0].parent.name
            time.sleep(0.2)
        raise RuntimeError(self._trouble("did not begin to train"))

    def _beat_after(self, at: float) -> Heartbeat:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            beat = self._beat(self.home.session(self.session_id).metrics)
            if beat is not None and beat.at > at:
                return beat
            time.sleep(0.1)
        raise RuntimeError(self._trouble("stands still"))

    def _trouble(self, what: str) -> str:
        code = self.process.poll()
        state = "still runs" if code is None else f"ended with {code}"
        return f"the run in {self.home.root} {what}; it {state}: {self._log()[-1000:]!r}"

    @staticmethod
    def _beat(metrics: Path) -> Heartbeat | None:
        connection = open_reader(metrics)
        try:
            return next(iter(fetch(connection, queries.heartbeat())), None)
        except sqlite.OperationalError:
            return None  # the file is just being made
        finally:
            connection.close()


def write_config(home: Home, *settings: str) -> Path:
    """The configuration of a run that goes on until it is ended."""
    home.root.mkdir(parents=True, exist_ok=True)
    path = home.root / "measured.yaml"
    path.write_text(dump_yaml(load_config("tiny", [*_SETTINGS, *settings])), "utf-8")
    return path


def share_cache(source: Home, target: Home) -> None:
    """Give another home the token shards of the first, so that they are made once."""
    target.root.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source.cache, target.cache)


def thread_seconds(process: int, thread: int) -> float:
    """Processor time of one thread so far."""
    fields = Path(f"/proc/{process}/task/{thread}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
