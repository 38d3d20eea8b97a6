"""The one way two things are compared: interleaved pairs, measured back to back.

A ratio is the median over the pairs, with a 95 % bootstrap interval over them, so that a machine that slows
down half-way slows both sides.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[], object]
Clock = Callable[[Run], float]

RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """Two things measured in interleaved pairs; a ratio below 1 is in our favour."""

    ours: float
    peer: float
    ratio: float
    low: float
    high: float


def seconds(run: Run) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternating(sides: Sequence[Run], rounds: int) -> None:
    """Call every side once a round; every other round goes backwards, so that no side always comes first."""
    for number in range(rounds):
        for side in reversed(sides) if number % 2 else sides:
            side()


def compare(ours: Run, peer: Run, pairs: int, warmup: int = 2, clock: Clock = seconds) -> Comparison:
    """Time two callables in `pairs` interleaved pairs; who goes first alternates."""
    for _ in range(warmup):
        ours()
        peer()
    a: list[float] = []
    b: list[float] = []
    alternating([lambda: b.append(clock(peer)), lambda: a.append(clock(ours))], pairs)
    return summarise(a, b)


def summarise(ours: Sequence[float], peer: Sequence[float]) -> Comparison:
    """Medians, the median ratio of paired measurements, and its 95 % bootstrap interval."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    low, high = interval(ratios)
    return Comparison(statistics.median(ours), statistics.median(peer), statistics.median(ratios), low, high)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]
