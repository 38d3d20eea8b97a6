"""What the screen costs a run that it hosts: `forge-tui` with the run in it against the same run headless.

Both are real programs that train the real `tiny` model; they take turns, and who goes first alternates. The
ratio is of the time a step takes, so 1.02 is a loss of 2 % of the throughput.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.table import Row, figure, print_table, row, tell_noise
from forge.engine.device import usable_cores
from forge.home import Home
from forge.validate.noise import Noise
from forge.validate.pairs import alternating, summarise
from forge.validate.terminal import Terminal
from forge.validate.training import Training, share_cache, thread_seconds

LOSS_BUDGET = 1.02
BYTES_BUDGET = 8.0
"""Kilobytes a second to the terminal."""


def run(quick: bool) -> list[Row]:
    """Rows for the time of a step, the bytes to the terminal, and the processor time of the event loop."""
    pairs, seconds = (2, 2.0) if quick else (20, 6.0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        plain, screened = Home(Path(folder, "headless")), Home(Path(folder, "hosted"))
        headless = stack.enter_context(Training.headless(plain))
        share_cache(plain, screened)
        hosted, terminal = Training.on_screen(screened)
        stack.enter_context(hosted)
        watch = _Watch(hosted, terminal)
        alone: list[float] = []
        noise = Noise()

        def without() -> None:
            alone.append(noise.least(lambda: headless.step_seconds(seconds)))

        def with_screen() -> None:
            watch.steps.append(noise.least(lambda: watch.take(lambda: hosted.step_seconds(seconds))))

        alternating([without, with_screen], pairs)
    tell_noise("ui_cost", noise)
    name = f"a step hosted by forge-tui / headless, {pairs} pairs, {usable_cores()} cores"
    rows = [
        row(name, summarise(watch.steps, alone), budget=LOSS_BUDGET),
        figure("bytes to the terminal, run hosted", watch.bytes, "kB/s", 1e-3, BYTES_BUDGET),
    ]
    if watch.shares:
        rows.append(figure("event loop of the hosting screen, share of a core", watch.shares, "%", 100))
    return rows


class _Watch:
    """What is looked at while the hosted run has its turn."""

    def __init__(self, hosted: Training, terminal: Terminal) -> None:
        self._pid = hosted.process.pid
        self._terminal = terminal
        self.steps: list[float] = []
        self.bytes: list[float] = []
        self.shares: list[float] = []

    def take(self, turn: Callable[[], float]) -> float:
        """One turn; returns the time of a step."""
        start, before = time.perf_counter(), self._main_thread()
        step = turn()
        elapsed = time.perf_counter() - start
        self.bytes.append(self._terminal.bytes_since(start) / elapsed)
        if before is not None:
            self.shares.append((thread_seconds(self._pid, self._pid) - before) / elapsed)
        return step

    def _main_thread(self) -> float | None:
        return thread_seconds(self._pid, self._pid) if sys.platform == "linux" else None


if __name__ == "__main__":
    print_table("ui_cost", run(quick=False))
