"""The queue between the phase loop and the disk, and the thread that drains it.

The phase loop never waits: `log` appends to a bounded queue, and when the disk stalls until the queue is
full, points are merged per series and counted, never silently dropped.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from forge.errors import ForgeError
from forge.registry import Error, Heartbeat, MetricsWriter

T = TypeVar("T")
Record = tuple[str, int, Mapping[str, float]]

QUEUE_LIMIT = 1 << 16
WAKE_AT = 50
TICK_SECONDS = 0.25
CHUNK = 8192


class MetricsStalledError(ForgeError):
    """The session's metrics cannot be written now; what was logged waits in memory."""


class Telemetry:
    """Metric records on their way to the metrics file; any thread may log, one thread takes."""

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
        # Once something is merged, all that follows is, until it was taken: else a reader that has seen the
        # newer steps would never ask for the older one.
        if self._merged or len(self._queue) >= self._limit:
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

    @property
    def waiting(self) -> int:
        """Records to take before everything logged until now is out."""
        return len(self._queue) + len(self._merged)

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


class Note(Protocol):
    """Hears of trouble and of its end: a kind, a sentence, a level."""

    def __call__(self, kind: str, message: str, *, level: str) -> None: ...


def _no_note(kind: str, message: str, *, level: str) -> None:
    """The default of `note`."""


class Recorder:
    """The `forge-record` thread: the only one that writes the session's metrics file."""

    def __init__(
        self,
        telemetry: Telemetry,
        open_writer: Callable[[], MetricsWriter],
        duty: Duty,
        note: Note = _no_note,
    ) -> None:
        self._telemetry = telemetry
        self._open_writer = open_writer
        self._duty = duty
        self._note = note
        self._jobs: deque[tuple[Callable[[MetricsWriter], Any], Future[Any]]] = deque()
        self._backlog: list[Record] = []
        self._stop = threading.Event()
        self._opened: Future[None] = Future()
        self._ending = threading.Lock()
        self._ended = False
        self._beat: Heartbeat | None = None
        self._broken: Exception | None = None
        self._duty_trouble: str | None = None
        self.stalled: str | None = None
        """Why the last write failed; none while the disk answers."""
        self._thread = threading.Thread(target=self._run, name="forge-record", daemon=True)

    def start(self) -> None:
        """Start the thread and wait until the metrics file is open.

        Raises:
            Exception: what opening it raised; the thread has ended.
        """
        self._thread.start()
        self._opened.result()

    def call(self, job: Callable[[MetricsWriter], T]) -> T:
        """Run `job` on the writer after everything logged so far, and wait for its result.

        Raises:
            MetricsStalledError: the disk does not take the metrics now; worth another try later.
            RuntimeError: it never will: a record that cannot be written, or the recorder has ended.
        """
        future: Future[T] = Future()
        with self._ending:
            if self._ended:
                raise RuntimeError("the recorder has ended")
            self._jobs.append((job, future))
        self._telemetry.wake.set()
        return future.result()

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._stop.set()
        self._telemetry.wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            writer = self._open_writer()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that started this one
            self._end()
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        try:
            while not self._stop.is_set():
                self._telemetry.wake.wait(TICK_SECONDS)
                self._telemetry.wake.clear()
                self._tick(writer)
            self._tick(writer)
            self._tell_lost()
        finally:
            self._end()
            writer.close()

    def _end(self) -> None:
        with self._ending:
            self._ended = True
        for _, future in self._jobs:
            future.set_exception(RuntimeError("the recorder has ended"))

    def _tick(self, writer: MetricsWriter) -> None:
        jobs = [self._jobs.popleft() for _ in range(len(self._jobs))]
        self._write(writer)
        for job, future in jobs:
            try:
                future.set_result(self._run_job(writer, job))
            except Exception as error:  # noqa: BLE001 - handed to the thread that asked
                future.set_exception(error)
        self._do_duty()

    def _run_job(self, writer: MetricsWriter, job: Callable[[MetricsWriter], T]) -> T:
        if self._broken is not None:
            raise RuntimeError(f"a metric could not be written: {self._broken}") from self._broken
        # A job promises durability of what was logged before it: with a backlog it must fail.
        if self._backlog:
            raise MetricsStalledError(f"the metrics in {writer.path} cannot be written: {self.stalled}.")
        try:
            return job(writer)
        except (Error, OSError) as error:
            raise MetricsStalledError(f"the metrics in {writer.path} cannot be written: {error}.") from error

    def _write(self, writer: MetricsWriter) -> None:
        before = self.stalled
        try:
            self._drain(writer)
            self._write_heartbeat(writer)
            self.stalled = None
        except (Error, OSError) as error:
            self.stalled = str(error)
        except Exception as error:  # noqa: BLE001 - a record of the wrong kind must not end the thread
            # It will never be written, and what comes after it must be. Whoever asks for durability hears.
            self._broken, self._backlog = error, []
            self._tell("metrics", f"a metric could not be written: {type(error).__name__}: {error}", "error")
        if self.stalled is not None and before is None:
            text = f"metrics cannot be written now and wait in memory: {self.stalled}"
            self._tell("stall", text, "warning")
        elif self.stalled is None and before is not None:
            merged = self._telemetry.coalesced
            self._tell("stall", f"metrics are written again; {merged} points were merged so far", "info")

    def _drain(self, writer: MetricsWriter) -> None:
        """Write what waits now, and not what is logged meanwhile: commands must have their turn."""
        budget = self._telemetry.waiting
        while self._backlog or budget > 0:
            if not self._backlog:
                self._backlog = self._telemetry.take(min(CHUNK, budget))
                budget -= len(self._backlog)
                if not self._backlog:
                    return
            writer.append(self._backlog)
            self._backlog = []

    def _write_heartbeat(self, writer: MetricsWriter) -> None:
        beat = self._telemetry.heartbeat
        if beat is not None and beat is not self._beat:
            writer.heartbeat(beat)
            self._beat = beat

    def _do_duty(self) -> None:
        try:
            self._duty()
            self._duty_trouble = None
        except Exception as error:  # noqa: BLE001 - commands that cannot be read now must not end the metrics
            if str(error) != self._duty_trouble:
                self._duty_trouble = str(error)
                self._tell("commands", f"requests cannot be read now: {error}", "warning")

    def _tell_lost(self) -> None:
        lost = len(self._backlog) + self._telemetry.waiting
        if lost:
            self._tell("metrics", f"{lost} metric records could not be written: {self.stalled}", "error")

    def _tell(self, kind: str, message: str, level: str) -> None:
        try:
            self._note(kind, message, level=level)
        except Exception as error:  # noqa: BLE001 - a mistake there is told by the next `call`
            self._broken = self._broken or error
