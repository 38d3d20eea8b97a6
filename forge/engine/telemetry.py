"""The queue between the phase loop and the disk, and the thread that drains it.

The phase loop never waits: `log` appends to a bounded queue, and when the disk stalls until the queue is
full, points are merged per series and counted, never silently dropped.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from forge.registry import Error, Heartbeat, MetricsWriter

T = TypeVar("T")
Record = tuple[str, int, Mapping[str, float]]

QUEUE_LIMIT = 1 << 16
WAKE_AT = 50
TICK_SECONDS = 0.25
CHUNK = 8192


class Telemetry:
    """Metric records on their way to the metrics file."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._queue: deque[Record] = deque()
        self._limit = limit
        self._merged: dict[tuple[str, str], tuple[int, float]] = {}
        self._lock = threading.Lock()
        self.wake = threading.Event()
        self.coalesced = 0
        self.heartbeat: Heartbeat | None = None

    def log(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """Queue the metrics of one step; never blocks on the disk."""
        if len(self._queue) >= self._limit:
            self._merge(phase, step, values)
            return
        self._queue.append((phase, step, values))
        if len(self._queue) == WAKE_AT:
            self.wake.set()

    def take(self, limit: int = CHUNK) -> list[Record]:
        """Remove and return the oldest records; merged ones come once the queue is empty."""
        take = self._queue.popleft
        records = [take() for _ in range(min(limit, len(self._queue)))]
        if not records and self._merged:
            with self._lock:
                merged, self._merged = self._merged, {}
            records = [(phase, step, {name: value}) for (phase, name), (step, value) in merged.items()]
        return records

    def _merge(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        # The last value stands for the lost ones, but a NaN or infinity is what a person must see: it stays.
        with self._lock:
            for name, value in values.items():
                key = (phase, name)
                before = self._merged.get(key)
                if before is not None:
                    self.coalesced += 1
                    if not math.isfinite(before[1]) and math.isfinite(value):
                        continue
                self._merged[key] = (step, value)


class Duty(Protocol):
    """Something the recorder looks after once a tick, such as commands."""

    def __call__(self) -> None: ...


class Recorder:
    """The `forge-record` thread: the only one that writes the session's metrics file."""

    def __init__(self, telemetry: Telemetry, open_writer: Callable[[], MetricsWriter], duty: Duty) -> None:
        self._telemetry = telemetry
        self._open_writer = open_writer
        self._duty = duty
        self._jobs: deque[tuple[Callable[[MetricsWriter], Any], Future[Any]]] = deque()
        self._backlog: list[Record] = []
        self._stop = threading.Event()
        self._beat: Heartbeat | None = None
        self.stalled: str | None = None
        """Why the last write failed; none while the disk answers."""
        self._thread = threading.Thread(target=self._run, name="forge-record", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def call(self, job: Callable[[MetricsWriter], T]) -> T:
        """Run `job` on the writer after everything logged so far, and wait for its result."""
        future: Future[T] = Future()
        self._jobs.append((job, future))
        self._telemetry.wake.set()
        return future.result()

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._stop.set()
        self._telemetry.wake.set()
        self._thread.join()

    def _run(self) -> None:
        writer = self._open_writer()
        try:
            while not self._stop.is_set():
                self._telemetry.wake.wait(TICK_SECONDS)
                self._telemetry.wake.clear()
                self._tick(writer)
            self._tick(writer)
        finally:
            for _, future in self._jobs:
                future.set_exception(RuntimeError("the recorder has ended"))
            writer.close()

    def _tick(self, writer: MetricsWriter) -> None:
        jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
        try:
            self._drain(writer)
            self._write_heartbeat(writer)
            self.stalled = None
        except (Error, OSError) as error:
            self.stalled = str(error)
        for job, future in jobs:
            try:
                # A job promises durability of what was logged before it: with a backlog it must fail.
                if self._backlog:
                    raise OSError(f"metrics cannot be written: {self.stalled}")
                future.set_result(job(writer))
            except Exception as error:  # noqa: BLE001 - handed to the thread that asked
                future.set_exception(error)
        self._duty()

    def _drain(self, writer: MetricsWriter) -> None:
        while True:
            if not self._backlog:
                self._backlog = self._telemetry.take()
            if not self._backlog:
                return
            writer.append(self._backlog)
            self._backlog = []

    def _write_heartbeat(self, writer: MetricsWriter) -> None:
        beat = self._telemetry.heartbeat
        if beat is not None and beat is not self._beat:
            writer.heartbeat(beat)
            self._beat = beat


class Throughput:
    """Steps per second over the recent past, with pauses left out."""

    def __init__(self, horizon: int = 50, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._durations: deque[float] = deque(maxlen=horizon)
        self._since: float | None = None

    def begin(self) -> None:
        """A step starts now."""
        self._since = self._clock()

    def end(self) -> None:
        """The step that `begin` announced is done."""
        if self._since is not None:
            self._durations.append(self._clock() - self._since)

    @property
    def steps_per_second(self) -> float:
        """Mean over the horizon; 0 before the first step."""
        total = sum(self._durations)
        return len(self._durations) / total if total > 0 else 0.0
