"""Rows of side-by-side measurements, and the one way they are taken: interleaved pairs.

A ratio is the median over pairs measured back to back, with a 95 % bootstrap interval over the pairs, so
that a machine that slows down half-way slows both sides.
"""

from __future__ import annotations

import random
import statistics
import sys
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


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio to a peer, or a figure of ours alone."""

    name: str
    ours: float
    unit: str
    low: float | None = None
    """95 % interval of the ratio, or of the figure where there is no peer; none after a single look."""
    high: float | None = None
    peer: float | None = None
    ratio: float | None = None
    budget: float | None = None
    """Largest ratio allowed, or largest figure where there is no peer; none only reports."""

    @property
    def ok(self) -> bool | None:
        """Whether it keeps to its budget; none without one."""
        if self.budget is None:
            return None
        return (self.ours if self.ratio is None else self.ratio) <= self.budget


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


def row(
    name: str, found: Comparison, unit: str = "ms", scale: float = 1e3, budget: float | None = None
) -> Row:
    """A comparison as a line of the table; `scale` turns its figures into `unit`."""
    return Row(
        name,
        found.ours * scale,
        unit,
        found.low,
        found.high,
        peer=found.peer * scale,
        ratio=found.ratio,
        budget=budget,
    )


def figure(
    name: str, values: Sequence[float], unit: str, scale: float = 1.0, budget: float | None = None
) -> Row:
    """The median of what was measured of ours alone; `scale` turns it into `unit`, as the budget is."""
    scaled = [value * scale for value in values]
    low, high = interval(scaled) if len(scaled) > 1 else (None, None)
    return Row(name, statistics.median(scaled), unit, low, high, budget=budget)


def left_out(benchmark: str, peer: str) -> None:
    """Say that a peer is not compared with."""
    print(f'{benchmark}: {peer} is not installed and left out; "make bench" installs it', file=sys.stderr)


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows for a person."""
    # Here, so that `benchmarks.gpu` needs no more than torch on a bare machine.
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    table = Table(title=title)
    for column in ("measurement", "ours", "peer", "unit", "ratio", "95 % interval", "budget", "kept"):
        table.add_column(column, justify="left" if column == "measurement" else "right")
    for r in rows:
        digits = ".3g" if r.ratio is None else ".3f"
        spread = "" if r.low is None or r.high is None else f"{r.low:{digits}}–{r.high:{digits}}"
        budget = "" if r.budget is None else f"<= {r.budget:g}"
        kept = {None: "", True: "yes", False: "NO"}[r.ok]
        ratio = "" if r.ratio is None else f"{r.ratio:.3f}"
        table.add_row(r.name, f"{r.ours:.3g}", _or_nothing(r.peer), r.unit, ratio, spread, budget, kept)
    console.print(table)


def _or_nothing(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"
