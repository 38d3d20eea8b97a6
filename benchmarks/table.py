"""Rows of side-by-side measurements: a ratio to a peer, or a figure of ours alone, and its budget.

How pairs are measured is in `forge.validate.pairs`; here their outcome only becomes a line of a table.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from forge.validate.noise import Noise
from forge.validate.pairs import Comparison, interval


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


def tell_noise(benchmark: str, noise: Noise) -> None:
    """Say on stderr how much the measurements were disturbed."""
    if sentence := noise.sentence():
        print(f"{benchmark}: {sentence}", file=sys.stderr)


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
