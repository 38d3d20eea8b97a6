"""What a metric point costs: from `ctx.log` to its commit, and the writer alone, against two peers' stores.

A peer is given the batches that suit it and no client in front of its store. Points are counted by SELECT
afterwards, and none may have been coalesced.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.table import Row, figure, left_out, row
from forge.engine.context import EngineContext
from forge.engine.telemetry import Recorder, Telemetry
from forge.registry import MetricsWriter, open_reader, sqlite
from forge.validate.pairs import alternating, summarise

POINTS_A_SECOND = 250_000
METRICS = ("loss", "val", "lr", "grad_norm", *(f"metric-{number}" for number in range(6)))
VALUES = {name: random.Random(name).random() for name in METRICS}
BATCH = 100  # records; 1,000 points are the most that MLflow's log_batch takes
PEER_BATCHES = [range(first, first + BATCH) for first in range(0, 10 * BATCH, BATCH)]
BURST = 30_000  # records; half of what the engine's queue holds, so none is coalesced

Peer = Callable[[], float]
"""Writes `PEER_BATCHES` and returns the seconds a point took."""


def against_peers(pairs: int) -> list[Row]:
    """Rows for `ctx.log` against its budget, then `ctx.log` and `MetricsWriter` against each peer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logged = [_through_the_engine(folder / f"engine-{pair}.db") for pair in range(pairs + 1)][1:]
        budget = summarise(logged, [1 / POINTS_A_SECOND] * pairs)
        rows = [row(f"ctx.log to committed / {POINTS_A_SECOND:,} points/s", budget, "µs/point", 1e6, 1.0)]
        peers = {"MLflow's SQLite store": _mlflow(folder), "trackio": _trackio(folder)}
        for who, peer in peers.items():
            for label, ours in (("ctx.log", _through_the_engine), ("MetricsWriter", _through_the_writer)):
                rows.append(_pairs(f"{label}, a point / {who}", ours, peer, folder, pairs))
    return rows


def _pairs(name: str, ours: Callable[[Path], float], peer: Peer | None, folder: Path, pairs: int) -> Row:
    a: list[float] = []
    b: list[float] = []

    def one() -> None:
        a.append(ours(Path(tempfile.mkdtemp(dir=folder)) / "metrics.db"))

    if peer is None:
        alternating([one], pairs + 1)
        left_out("registry", name.partition(" / ")[2])
        return figure(name.partition(" / ")[0], a[1:], "µs/point", 1e6)
    alternating([one, lambda: b.append(peer())], pairs + 1)
    return row(name, summarise(a[1:], b[1:]), "µs/point", 1e6)


class _Context(EngineContext):
    """The engine's own `log`, without a session around it."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._scope = SimpleNamespace(telemetry=telemetry)  # type: ignore[assignment]
        self._phase = "p"


def _through_the_engine(path: Path) -> float:
    """Seconds a point through the engine's queue and recording thread."""
    telemetry = Telemetry()
    recorder = Recorder(telemetry, lambda: MetricsWriter(path), lambda: None)
    ctx = _Context(telemetry)
    recorder.start()
    recorder.call(lambda writer: None)
    start = time.perf_counter()
    for step in range(BURST):
        ctx.log(step, **VALUES)
    recorder.call(lambda writer: None)  # returns when all before it is committed
    elapsed = time.perf_counter() - start
    recorder.close()
    if telemetry.coalesced:
        raise RuntimeError(f"{telemetry.coalesced} points were coalesced")
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
    if count != expected:
        raise RuntimeError(f"{count} of {expected} points are in {path}")
    return count


def _mlflow(folder: Path) -> Peer | None:
    """MLflow's SQLite store without its client and server; none when it is not installed."""
    try:
        from mlflow.entities import Metric
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    except ImportError:
        return None
    make: Any = SqlAlchemyStore  # without annotations of its own
    store = make(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"))

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
    if count != expected:
        raise RuntimeError(f"{who} kept {count} of {expected} points")
    return count
