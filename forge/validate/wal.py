"""Proof of the registry: a pipeline, readers and writers beside each other lock nobody out, and cost little.

The pipeline is a real `forge run` of the `tiny` preset, every reader and writer a process of its own; what
the readers cost is measured in interleaved pairs of the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from forge.home import Home
from forge.registry import VERSION, WAL_SAFE, Registry, queries
from forge.validate.job import CannotRunError, Job
from forge.validate.load import burning, cost
from forge.validate.noise import Noise
from forge.validate.pairs import alternating, summarise
from forge.validate.readers import Readers, total
from forge.validate.result import Figure
from forge.validate.training import LOG, Training
from forge.validate.writers import Begin, Writers, Written

MOST_COST = 5.0
"""Percent more time for a step."""
P99_SECONDS = 1.0
"""A command given on one screen has to be seen on another within a second."""
WRITERS = 3
_CHECKPOINTS = "runtime.checkpoint_every=25"


def prove(job: Job) -> list[Figure]:
    """Errors and latencies under load, with a control; then pairs with and without readers, with one too."""
    if not WAL_SAFE:
        raise CannotRunError(
            f"SQLite {VERSION} has the WAL-reset bug, so Forge uses a rollback journal here; install a fixed "
            "one: pip install pysqlite3, or a Python with SQLite 3.51.3."
        )
    readers, seconds, pairs, turn = (4, 3.0, 3, 2.0) if job.quick else (8, 15.0, 10, 5.0)
    home = Home(job.folder / "home")
    with ExitStack() as stack:
        job.tell(0.0, "a run begins")
        run = stack.enter_context(Training.headless(home, _CHECKPOINTS))
        run.go_on()
        crowd = stack.enter_context(Readers(home, run.session_id, readers))
        job.tell(0.2, f"{readers} readers and {WRITERS} writers beside the run")
        ours = _together(run, crowd, readers, "immediate", seconds)
        counted = _number(home, run.session_id)
        job.tell(0.3, "the same with a plain BEGIN")
        plain = _together(run, crowd, readers, "plain", seconds)
        trouble = _trouble(run)
        run.stop()
        figures = _cost(job, run, crowd, readers, pairs, turn)
        seen = total(crowd.reports())
    return [
        Figure("errors in the readers", len(seen.errors), f"in {seen.polls:,} looks", "==", 0),
        Figure("errors in the writers", len(ours.errors), f"in {ours.done:,} commits", "==", 0),
        Figure("updates lost", ours.done - counted, f"of {ours.done:,}", "==", 0),
        Figure("troubles of the run", len(trouble), "", "==", 0),
        Figure("a commit beside them, p50", 1e3 * _quantile(ours.seconds, 50), "ms"),
        Figure("a commit beside them, p99", 1e3 * _quantile(ours.seconds, 99), "ms", "<=", 1e3 * P99_SECONDS),
        Figure("\"database is locked\" with a plain BEGIN", sum("locked" in error for error in plain.errors),
               f"in {plain.done:,} commits", ">=", 1, control=True),
        *figures,
    ]  # fmt: skip


def _together(run: Training, crowd: Readers, readers: int, begin: Begin, seconds: float) -> Written:
    """The run, the readers and the writers for a while."""
    with Writers(run.home, run.session_id, [begin] * WRITERS) as writers:
        with crowd.working(readers), writers.working():
            time.sleep(seconds)
        return writers.total()


def _cost(job: Job, run: Training, crowd: Readers, readers: int, pairs: int, turn: float) -> list[Figure]:
    """Percent that a step takes longer beside readers, and beside burnt processors."""
    noise, times = Noise(1 if job.quick else None), {0: list[float](), readers: list[float]()}
    taken = 0

    def measure(count: int) -> None:
        nonlocal taken
        job.tell(0.4 + 0.5 * taken / (2 * pairs), f"steps of the run, pair {taken // 2 + 1} of {pairs}")
        beside = partial(crowd.working, count)
        times[count].append(noise.least(lambda: run.step_seconds(turn, beside)))
        taken += 1

    alternating([partial(measure, count) for count in times], pairs)
    job.tell(0.9, "steps of the run beside burnt processors")
    burnt = run.step_seconds(turn, burning) / statistics.median(times[0])
    return [
        cost(f"{readers} readers cost a step", summarise(times[readers], times[0]), MOST_COST, noise),
        Figure("burnt processors cost a step", 100 * (burnt - 1), "%", ">", MOST_COST, control=True),
    ]


def _number(home: Home, session_id: str) -> int:
    """What the writers have counted to."""
    with Registry.open(home) as registry:
        session = registry.one(queries.session(session_id))
    return int(session.note or 0) if session is not None else 0


def _trouble(run: Training) -> list[str]:
    """Whatever the run complained about."""
    with Registry.open(run.home) as registry:
        events = registry.fetch(queries.latest_events(run.session_id, 10_000))
    said = [event.message for event in events if event.level != "info" and event.kind != "epochs"]
    logs = [run.home.session(run.session_id).log, run.home.root / LOG]
    locked = [line for log in logs if log.exists() for line in _lines(log.read_bytes()) if "locked" in line]
    ended = run.process.poll()
    return said + locked + ([] if ended is None else [f"it ended with {ended}"])


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "replace").splitlines()


def _quantile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else float("nan")
