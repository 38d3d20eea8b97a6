"""How fast a phase goes and how long it has taken, with pauses left out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Throughput:
    """Steps per second over the recent past: from step to step, evaluation and checkpoints included.

    The first step compiles and warms caches; it counts only until there is a second.
    """

    def __init__(self, horizon: int = 50, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._durations: deque[float] = deque(maxlen=horizon)
        self._since: float | None = None
        self._warm = False

    def begin(self) -> None:
        """A step starts now."""
        self._since = self._clock()

    def end(self) -> None:
        """The step that `begin` announced is done, and all that belongs to it."""
        if self._since is None:
            return
        if len(self._durations) == 1 and not self._warm:
            self._durations.clear()
            self._warm = True
        self._durations.append(self._clock() - self._since)
        self._since = None

    def drop(self) -> None:
        """The present step was interrupted by a pause: it says nothing about speed."""
        self._since = None

    @property
    def steps_per_second(self) -> float:
        """Mean over the horizon; 0 before the first step."""
        total = sum(self._durations)
        return len(self._durations) / total if total > 0 else 0.0


class Stopwatch:
    """Seconds of work on a phase, over all attempts at it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before = 0.0
        self._since: float | None = clock()

    def add(self, seconds: float) -> None:
        """Count what earlier attempts took."""
        self._before += seconds

    def stop(self) -> None:
        """Work stands still; without effect while it does."""
        if self._since is not None:
            self._before += self._clock() - self._since
            self._since = None

    def start(self) -> None:
        """Work goes on; without effect while it does."""
        if self._since is None:
            self._since = self._clock()

    @property
    def seconds(self) -> float:
        """What was worked until now."""
        return self._before + (0.0 if self._since is None else self._clock() - self._since)
