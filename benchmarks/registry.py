"""What the registry costs: commits beside readers, WAL against a rollback journal, points against peers.

Both sides of a ratio are the same Forge code or the same points, at equal `synchronous`; a peer is given the
batches that suit it and no client in front of its store. Points are counted by SELECT afterwards.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks.table import Comparison, Row, print_table, row, summarise
from forge.engine.telemetry import Recorder, Telemetry
from forge.home import Home
from forge.registry import (
    Heartbeat,
    MetricsWriter,
    Reader,
    Registry,
    edits,
    open_reader,
    queries,
    sqlite,
)

ROOT = Path(__file__).resolve().parent.parent
READERS = (0, 1, 8)
POLLS_A_SECOND = 4
POINTS_A_SECOND = 250_000
METRICS = tuple(f"metric-{number}" for number in range(10))
BATCH = 100  # records; 1,000 points are the most that MLflow's log_batch takes
PEER_BATCHES = [range(first, first + BATCH) for first in range(0, 10 * BATCH, BATCH)]
BURST = 30_000  # records; half of what the engine's queue holds, so none is coalesced
VALUES = {name: random.Random(name).random() for name in METRICS}
SESSION = "01JREGISTRYBENCHMARK000000"

Peer = Callable[[], float]
"""Writes `PEER_BATCHES` and returns the seconds a point took."""


def run(quick: bool) -> list[Row]:
    """Rows for commits and points beside 0, 1 and 8 readers, then points against peers."""
    rows = []
    for readers in READERS:
        rows += beside_readers(readers, pairs=3 if quick else 9, seconds=0.5 if quick else 2.0)
    rows += against_peers(pairs=5 if quick else 15)
    return rows


# --- beside readers -------------------------------------------------------------------------------------


def beside_readers(readers: int, pairs: int, seconds: float) -> list[Row]:
    """WAL (ours) against DELETE (peer): commit latency of the registry, and time a metric point."""
    figures: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides = {
            journal: stack.enter_context(_Side.open(Path(folder), journal)) for journal in ("WAL", "DELETE")
        }
        for pair in range(pairs + 1):
            for journal in ("WAL", "DELETE") if pair % 2 else ("DELETE", "WAL"):
                with sides[journal].readers(readers):
                    measured = sides[journal].measure(seconds)
                if pair:  # the first is for warming up
                    for name, value in measured.items():
                        figures.setdefault((journal, name), []).append(value)
    rows = []
    for name, unit, scale in (("p50", "ms", 1e3), ("p99", "ms", 1e3), ("point", "µs/point", 1e6)):
        found = summarise(figures["WAL", name], figures["DELETE", name])
        what = "a metric point" if name == "point" else f"registry commit {name}"
        rows.append(row(f"{what}, {readers} readers: WAL / DELETE", found, unit, scale))
    return rows


class _Side:
    """A registry and a metrics file in one journal mode, and what writes them."""

    def __init__(self, home: Home, registry: Registry, metrics: MetricsWriter) -> None:
        self.home, self.registry, self.metrics = home, registry, metrics
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
            metrics = MetricsWriter(home.root / "metrics.db")
        finally:
            sqlite.JOURNAL = before
        with registry, closing(metrics):
            assert sqlite.one_value(metrics._connection, "PRAGMA journal_mode") == journal.lower()
            yield cls(home, registry, metrics)

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

    @contextmanager
    def readers(self, count: int) -> Iterator[None]:
        """Processes that poll like the screen; fails when one of them ever met an error."""
        command = [sys.executable, "-m", "benchmarks.registry", str(self.home.root)]
        pipe = subprocess.PIPE
        processes = [
            subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for _ in range(count)
        ]
        try:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            yield
        finally:
            ends = [process.communicate("stop\n")[0] for process in processes]
        assert all(int(polls) > 0 for polls in ends), ends
        assert all(process.returncode == 0 for process in processes)


async def poll(root: Path) -> int:
    """What the screen's service does, until a line comes in; returns how often."""
    registry, metrics = await Reader.open(Home(root).registry), await Reader.open(root / "metrics.db")
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print("ready", flush=True)
    polls, seen, last_event = 0, dict[int, int](), 0
    while not stop.done():
        if await registry.changed():
            await registry.one(queries.session(SESSION))
            events = await registry.fetch(queries.events_after(SESSION, last_event, 500))
            last_event = events[-1].id if events else last_event
        if await metrics.changed():
            await metrics.one(queries.heartbeat())
            for series in await metrics.fetch(queries.series()):
                # Far behind, the screen reads buckets; near, the points that are new.
                after = max(seen.get(series.id, -1), (series.last_step or 0) - 4000)
                points = await metrics.fetch(queries.points_after(series.id, after, 4000))
                seen[series.id] = points[-1].step if points else after
        polls += 1
        await asyncio.sleep(1 / POLLS_A_SECOND * random.uniform(0.9, 1.1))
    await registry.close()
    await metrics.close()
    return polls


# --- against peers --------------------------------------------------------------------------------------


def against_peers(pairs: int) -> list[Row]:
    """Time a point from `ctx.log` to its commit, and that of the writer alone, against two peers."""
    with tempfile.TemporaryDirectory() as folder:
        peers = {"MLflow's SQLite store": _mlflow(Path(folder)), "trackio": _trackio(Path(folder))}
        logged = [_through_the_engine(Path(folder) / f"engine-{pair}.db") for pair in range(pairs)]
        target = 1 / POINTS_A_SECOND
        budget = summarise(logged, [target] * pairs)
        name = f"ctx.log to committed / {POINTS_A_SECOND:,} points/s"
        rows = [row(name, budget, "µs/point", 1e6, budget=1.0)]
        for who, peer in peers.items():
            for label, ours in (("ctx.log", _through_the_engine), ("MetricsWriter", _through_the_writer)):
                found = _pairs(ours, peer, Path(folder), pairs, f"{who}-{label}".replace(" ", "-"))
                missing = "" if peer else " (not installed)"
                rows.append(row(f"{label}, a point / {who}{missing}", found, "µs/point", 1e6))
    return rows


def _pairs(
    ours: Callable[[Path], float], peer: Peer | None, folder: Path, pairs: int, name: str
) -> Comparison:
    a, b = [], []
    for pair in range(pairs + 1):
        a.append(ours(folder / f"{name}-{pair}.db"))
        if peer is not None:
            b.append(peer())
    if peer is None:
        return Comparison(statistics.median(a[1:]), *[math.nan] * 4)
    return summarise(a[1:], b[1:])


def _through_the_engine(path: Path) -> float:
    """Seconds a point through the engine's queue and recording thread, as `ctx.log` does it."""
    telemetry = Telemetry()
    recorder = Recorder(telemetry, lambda: MetricsWriter(path), lambda: None)

    def log(step: int, /, **metrics: float) -> None:
        telemetry.log("p", step, metrics)

    recorder.start()
    recorder.call(lambda writer: None)
    start = time.perf_counter()
    for step in range(BURST):
        log(step, **VALUES)
    recorder.call(lambda writer: None)  # returns when all before it is committed
    elapsed = time.perf_counter() - start
    recorder.close()
    assert telemetry.coalesced == 0
    return elapsed / _counted(path, BURST * len(METRICS))


def _through_the_writer(path: Path) -> float:
    """Seconds a point through `MetricsWriter` alone, in the batches that the peers are given."""
    with closing(MetricsWriter(path)) as writer:
        start = time.perf_counter()
        for first in range(0, BURST, BATCH):
            writer.append([("p", step, VALUES) for step in range(first, first + BATCH)])
        elapsed = time.perf_counter() - start
    return elapsed / _counted(path, BURST * len(METRICS))


def _counted(path: Path, expected: int) -> int:
    with closing(open_reader(path)) as connection:
        count = int(sqlite.one_value(connection, "SELECT count(*) FROM point"))
    assert count == expected, f"{count} of {expected} points are in {path}"
    return count


def _mlflow(folder: Path) -> Peer | None:
    """MLflow's SQLite store without its client and server; none when it is not installed."""
    try:
        from mlflow.entities import Metric
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    except ImportError:
        return None
    store = SqlAlchemyStore(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"))

    def measure() -> float:
        # A run of its own each time: one that grows would only be slower.
        run_id, now = store.create_run("0", "bench", 0, [], "bench").info.run_id, int(time.time() * 1000)
        start = time.perf_counter()
        for steps in PEER_BATCHES:
            points = [Metric(name, value, now, step) for step in steps for name, value in VALUES.items()]
            store.log_batch(run_id, points, [], [])
        elapsed = time.perf_counter() - start
        count = sum(len(store.get_metric_history(run_id, name)) for name in METRICS)
        return elapsed / _checked(count, "MLflow")

    return measure


def _trackio(folder: Path) -> Peer | None:
    """trackio's SQLite storage without its client and server; none when it is not installed."""
    os.environ["TRACKIO_DIR"] = str(folder / "trackio")  # read when it is imported
    try:
        from trackio.sqlite_storage import SQLiteStorage
    except ImportError:
        return None
    runs = iter(range(1 << 30))

    def measure() -> float:
        run = f"run-{next(runs)}"
        start = time.perf_counter()
        for steps in PEER_BATCHES:
            SQLiteStorage.bulk_log("bench", run, [dict(VALUES) for _ in steps], steps=list(steps))
        elapsed = time.perf_counter() - start
        count = sum(name in record for record in SQLiteStorage.get_logs("bench", run) for name in METRICS)
        return elapsed / _checked(count, "trackio")

    return measure


def _checked(count: int, who: str) -> int:
    expected = sum(len(steps) for steps in PEER_BATCHES) * len(METRICS)
    assert count == expected, f"{who} kept {count} of {expected} points"
    return count


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
    if len(sys.argv) == 2:
        print(asyncio.run(poll(Path(sys.argv[1]))))
    else:
        print_table("registry", run(quick=False))
