"""Proof of the screen: what an attached one holds, and what a hosting one takes from its run.

Both are the real `forge-tui` on a pseudo-terminal of 120x40 that is read at once. The run is `tiny`; the two
sides of a pair are the same run, headless and hosted, each standing still while the other is measured.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from contextlib import ExitStack

import psutil

from forge.home import Home
from forge.registry import Registry, queries
from forge.validate.child import program
from forge.validate.job import CannotRunError, Job
from forge.validate.load import burning, cost
from forge.validate.noise import Noise
from forge.validate.pairs import alternating, summarise
from forge.validate.result import Figure
from forge.validate.terminal import Terminal
from forge.validate.training import SCREEN, Training, share_cache

MOST_MEMORY = 80.0
"""MB resident; an empty Textual screen with the same libraries takes 58."""
MOST_COST = 2.0
"""Percent more time for a step."""
MOST_BYTES = 8.0
"""kB a second to the terminal."""
SETTLE_SECONDS = 5.0
"""The first seconds are those of a chart that comes to be."""
KEYS = ("?", "\x1b", "z", "z", "\t", "y", "y", "L", "j", "k", "\r", "1", "0")
"""Pressed one after the other: help, zoom, panes, axis, the list of sessions and back."""


def prove(job: Job) -> list[Figure]:
    """Memory beside a live run; then pairs of a headless and a hosted one."""
    if importlib.util.find_spec("forge_tui") is None:
        raise CannotRunError("forge_tui is not installed here: pip install forge-tui.")
    watched, pairs, turn = (6.0, 3, 2.0) if job.quick else (45.0, 10, 5.0)
    plain, screened = Home(job.folder / "headless"), Home(job.folder / "hosted")
    with ExitStack() as stack:
        job.tell(0.0, "a headless run begins")
        headless = stack.enter_context(Training.headless(plain))
        job.tell(0.15, "a screen is attached to it")
        figures = _attached(headless, watched)
        share_cache(plain, screened)
        job.tell(0.3, "a hosted run begins")
        hosted, terminal = Training.on_screen(screened, "runtime.host=thread")
        stack.enter_context(hosted)
        figures.append(
            Figure("memory of a screen with torch in it", terminal.resident_bytes() / 1e6, "MB", ">",
                   MOST_MEMORY, control=True)
        )  # fmt: skip
        figures += _cost(job, headless, hosted, terminal, pairs, turn)
    return figures


def _attached(run: Training, seconds: float) -> list[Figure]:
    """A screen in another process than the run, with keys pressed in it."""
    with Registry.open(run.home) as registry:
        session = registry.one(queries.session(run.session_id))
    name = session.name if session is not None else run.session_id
    run.go_on()
    try:
        with Terminal([*program(SCREEN), "--home", run.home.root, name]) as terminal:
            terminal.wait_for(lambda output: name.encode() in output and b"quit" in output)
            time.sleep(SETTLE_SECONDS)
            start = time.perf_counter()
            time.sleep(seconds / 2)
            written = terminal.bytes_since(start) / (time.perf_counter() - start)
            for key in KEYS:
                terminal.press(key)
                time.sleep(seconds / 2 / len(KEYS))
            resident, torch = terminal.resident_bytes(), terminal.maps("libtorch")
            alone = psutil.Process(terminal.process.pid).memory_full_info().uss
    finally:
        run.stop()
    figures = [
        Figure(f"memory of an attached screen after {seconds:g} s", resident / 1e6, "MB", "<=", MOST_MEMORY),
        Figure("of that its own alone", alone / 1e6, "MB"),
        Figure("bytes to the terminal, attached", written / 1e3, "kB/s", "<=", MOST_BYTES),
    ]
    if torch is not None:
        figures.append(Figure("libraries of torch in it", int(torch), "", "==", 0))
    return figures


def _cost(
    job: Job, headless: Training, hosted: Training, terminal: Terminal, pairs: int, turn: float
) -> list[Figure]:
    """Percent that a step takes longer where a screen hosts the run, and where processors are burnt."""
    noise = Noise(1 if job.quick else None)
    alone: list[float] = []
    beside: list[float] = []

    def measure(run: Training, times: list[float]) -> None:
        taken = len(alone) + len(beside)
        job.tell(0.45 + 0.45 * taken / (2 * pairs), f"steps of both runs, pair {taken // 2 + 1} of {pairs}")
        times.append(noise.least(lambda: run.step_seconds(turn)))

    alternating([lambda: measure(headless, alone), lambda: measure(hosted, beside)], pairs)
    job.tell(0.9, "steps beside burnt processors")
    burnt = headless.step_seconds(turn, burning) / statistics.median(alone)
    return [
        cost("a hosting screen costs a step", summarise(beside, alone), MOST_COST, noise),
        Figure("burnt processors cost a step", 100 * (burnt - 1), "%", ">", MOST_COST, control=True),
    ]
