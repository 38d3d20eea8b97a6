"""Rows of side-by-side measurements, and the one way they are taken: interleaved pairs.

A ratio is the median over pairs measured back to back, with a 95 % bootstrap interval over the pairs, so
that a machine that slows down half-way slows both sides.
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


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    low: float
    high: float
    budget: float | None = None
    """Largest ratio allowed; None only reports."""
    ok: bool | None = None
    """Whether the ratio keeps to the budget."""


def seconds(run: Run) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(ours: Run, peer: Run, pairs: int, warmup: int = 2, clock: Clock = seconds) -> Comparison:
    """Time two callables in `pairs` interleaved pairs; who goes first alternates."""
    for _ in range(warmup):
        ours()
        peer()
    a: list[float] = []
    b: list[float] = []
    for i in range(pairs):
        for run, times in ((ours, a), (peer, b)) if i % 2 else ((peer, b), (ours, a)):
            times.append(clock(run))
    return summarise(a, b)


def summarise(ours: Sequence[float], peer: Sequence[float]) -> Comparison:
    """Medians, the median ratio of paired measurements, and its 95 % bootstrap interval."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    rng = random.Random(0)
    resampled = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return Comparison(
        statistics.median(ours),
        statistics.median(peer),
        statistics.median(ratios),
        resampled[int(0.025 * RESAMPLES)],
        resampled[int(0.975 * RESAMPLES)],
    )


def row(
    name: str, found: Comparison, unit: str = "ms", scale: float = 1e3, budget: float | None = None
) -> Row:
    """A comparison as a line of the table; `scale` turns its figures into `unit`."""
    ok = None if budget is None else found.ratio <= budget
    return Row(
        name, found.ours * scale, found.peer * scale, unit, found.ratio, found.low, found.high, budget, ok
    )


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
        budget = "" if r.budget is None else f"<= {r.budget:g}"
        kept = "" if r.ok is None else ("yes" if r.ok else "NO")
        figures = (f"{r.ours:.3g}", f"{r.peer:.3g}", r.unit, f"{r.ratio:.3f}", f"{r.low:.3f}–{r.high:.3f}")
        table.add_row(r.name, *figures, budget, kept)
    console.print(table)
