"""What readers cost the writer: training and commits beside 0, 1 and 8, in WAL and in a rollback journal.

Both sides of a ratio are the same Forge code at equal `synchronous`. A reader is the screen's own service,
polling at 4 Hz in a process of its own; after it, what a point costs against peers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.points import BATCH, VALUES, against_peers
from benchmarks.readers import Readers
from benchmarks.table import Row, figure, print_table, row, tell_noise
from forge.engine.device import usable_cores
from forge.home import Home
from forge.registry import Heartbeat, MetricsWriter, Registry, edits, sqlite
from forge.validate.noise import Noise
from forge.validate.pairs import alternating, summarise
from forge.validate.readers import total
from forge.validate.training import Training, share_cache

READERS = (0, 1, 8)
JOURNALS: tuple[sqlite.Journal, ...] = ("WAL", "DELETE")
LOSS_BUDGET = 1.05
SESSION = "01JREG1STRYBENCHMARK000000"

Figures = dict[tuple[str, int, str], list[float]]
"""Journal, number of readers and name of the figure to what was measured, in the order of the rounds."""


def run(quick: bool) -> list[Row]:
    """Rows for training and commits beside readers, then for points against peers."""
    rows = training_beside_readers(rounds=2 if quick else 5, seconds=1.0 if quick else 4.0)
    rows += commits_beside_readers(rounds=2 if quick else 5, seconds=0.5 if quick else 1.6)
    return rows + against_peers(pairs=5 if quick else 15)


# --- training -------------------------------------------------------------------------------------------


def training_beside_readers(rounds: int, seconds: float) -> list[Row]:
    """Time of a training step; 8 readers against none get twice the rounds, for a budget hangs on them."""
    figures: Figures = {}
    noise = Noise()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs: dict[sqlite.Journal, tuple[Training, Readers]] = {}
        for journal in JOURNALS:
            home = Home(Path(folder, journal))
            if runs:
                share_cache(runs["WAL"][0].home, home)
            training = stack.enter_context(Training.headless(home, journal=journal))
            runs[journal] = training, stack.enter_context(_readers_of(training))

        def turn(journal: sqlite.Journal, readers: int) -> None:
            training, crowd = runs[journal]
            beside = partial(crowd.working, readers)
            took = noise.least(lambda: training.step_seconds(seconds, beside))
            figures.setdefault((journal, readers, "step"), []).append(took)

        decisive: list[tuple[sqlite.Journal, int]] = [("WAL", READERS[0]), ("WAL", READERS[-1])]
        others = [(journal, n) for journal in JOURNALS for n in READERS if (journal, n) not in decisive]
        for sides in (decisive + others, decisive):
            alternating([partial(turn, *side) for side in sides], rounds)
        reports = [total(crowd.reports()) for _, crowd in runs.values()]
    tell_noise("registry", noise)
    none = figures["WAL", 0, "step"]
    rows = [
        row(
            f"a training step, WAL: {n} readers / none, {usable_cores()} cores",
            summarise(figures["WAL", n, "step"], none[: len(figures["WAL", n, "step"])]),
            budget=LOSS_BUDGET if n == READERS[-1] else None,
        )
        for n in READERS[1:]
    ]
    rows += _wal_against_delete(figures, "step", "a training step", "ms", 1e3)
    polls, cpu = (sum(getattr(report, name) for report in reports) for name in ("polls", "cpu_seconds"))
    errors = sum(len(report.errors) for report in reports)
    return [
        *rows,
        figure("processor time of a poll", [cpu / polls], "ms", 1e3),
        figure("errors in the readers", [errors], "", budget=0),
    ]


def _readers_of(training: Training) -> Readers:
    """Its readers; a run that was stopped inside a transaction must go on before anyone can read."""
    training.go_on()
    try:
        return Readers(training.home, training.session_id, READERS[-1])
    finally:
        training.stop()


# --- commits --------------------------------------------------------------------------------------------


def commits_beside_readers(rounds: int, seconds: float) -> list[Row]:
    """WAL (ours) against DELETE (peer): commit latency of the registry, and time a metric point."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides = {journal: stack.enter_context(_Side.open(Path(folder), journal)) for journal in JOURNALS}

        def turn(journal: sqlite.Journal, readers: int) -> None:
            with sides[journal].crowd.working(readers):
                measured = sides[journal].measure(seconds)
            for name, value in measured.items():
                figures.setdefault((journal, readers, name), []).append(value)

        turns = [partial(turn, journal, n) for n in READERS for journal in JOURNALS]
        alternating(turns, 1)
        figures.clear()  # the first was for warming up
        alternating(turns, rounds)
        errors = [error for side in sides.values() for error in total(side.crowd.reports()).errors]
    if errors:
        raise RuntimeError(f"readers met {len(errors)} errors, such as: {errors[0]}")
    rows = []
    for name in ("p50", "p99"):
        rows += _wal_against_delete(figures, name, f"a registry commit, {name}", "ms", 1e3)
    return rows + _wal_against_delete(figures, "point", "a metric point", "µs", 1e6)


class _Side:
    """A registry and a metrics file in one journal mode, what writes them, and their readers."""

    def __init__(self, registry: Registry, metrics: MetricsWriter, crowd: Readers) -> None:
        self.registry, self.metrics, self.crowd = registry, metrics, crowd
        self.step = 0

    @classmethod
    @contextmanager
    def open(cls, folder: Path, journal: sqlite.Journal) -> Iterator[_Side]:
        """Make the files. Every connection that writes is open before the mode is put back."""
        before, sqlite.JOURNAL = sqlite.JOURNAL, journal
        try:
            home = Home(folder / journal)
            registry = Registry.open(home)
            registry.write(
                lambda c: edits.create_session(
                    c, id=SESSION, name="s", preset="tiny", phases=[("p", 9)], now=0.0
                )
            )
            home.session(SESSION).root.mkdir()
            metrics = MetricsWriter(home.session(SESSION).metrics)
        finally:
            sqlite.JOURNAL = before
        with registry, closing(metrics), Readers(home, SESSION, READERS[-1]) as crowd:
            kept = sqlite.one_value(metrics._connection, "PRAGMA journal_mode")
            if kept != journal.lower():
                raise RuntimeError(f"the journal mode is {kept} instead of {journal}")
            yield cls(registry, metrics, crowd)

    def measure(self, seconds: float) -> dict[str, float]:
        """Half of the time commits to the registry, half of it batches of points, a heartbeat with each."""
        latencies: list[float] = []
        end = time.perf_counter() + seconds / 2
        while time.perf_counter() < end:
            start = time.perf_counter()
            self.registry.write(lambda c: edits.add_event(c, SESSION, kind="k", message="event", now=0.0))
            latencies.append(time.perf_counter() - start)
        points, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds / 2:
            points += self.metrics.append(
                [("p", step, VALUES) for step in range(self.step, self.step + BATCH)]
            )
            self.step += BATCH
            self.metrics.heartbeat(_beat(self.step))
        elapsed = time.perf_counter() - start
        p99 = statistics.quantiles(latencies, n=100)[98]
        return {"p50": statistics.median(latencies), "p99": p99, "point": elapsed / points}


def _wal_against_delete(figures: Figures, figure_name: str, what: str, unit: str, scale: float) -> list[Row]:
    rows = []
    for n in READERS:
        delete = figures["DELETE", n, figure_name]
        found = summarise(figures["WAL", n, figure_name][: len(delete)], delete)
        rows.append(row(f"{what}, {n} reader{'' if n == 1 else 's'}: WAL / DELETE", found, unit, scale))
    return rows


def _beat(step: int) -> Heartbeat:
    return Heartbeat(
        at=time.time(),
        phase="p",
        step=step,
        total_steps=1 << 30,
        steps_per_second=1.0,
        tokens_per_second=1.0,
        eta_seconds=None,
        status="",
        coalesced=0,
    )


if __name__ == "__main__":
    print_table("registry", run(quick=False))
