"""Ranges, ticks and labels of a chart's axes.

A range is never empty and never infinite, so mapping a value to a row needs no special case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forge_tui.charts.series import Floats, Ints

LABEL_WIDTH = 6


@dataclass(frozen=True)
class Scale:
    """Maps values to dot rows, 0 at the top; `low` and `high` are in log10 when `log` is set."""

    low: float
    high: float
    log: bool = False

    def transform(self, values: Floats) -> Floats:
        """Values as they stand on the axis; what a logarithm cannot show becomes NaN."""
        if not self.log:
            return values
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(values > 0, np.log10(values), np.nan)

    def rows(self, values: Floats, height: int) -> Ints:
        """The dot row of each value, inside `0 … height-1`; NaN gives row 0 and must be masked."""
        # A difference of huge values overflows to an infinity, which still lies on the right side.
        with np.errstate(over="ignore", invalid="ignore"):
            share = (self.high - self.transform(values)) / (self.high - self.low)
        inside = np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
        rows: Ints = np.rint(inside * (height - 1)).astype(np.int64)
        return rows


def fit(low: float, high: float, *, log: bool = False) -> Scale:
    """The scale that shows `low … high` with a little room; sensible for constant or missing data."""
    if log:
        if not high > 0:
            return Scale(-1.0, 1.0, log=True)
        low = math.log10(low) if low > 0 else math.log10(high) - 3
        high = math.log10(high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return Scale(0.0, 1.0, log)
    room = (high - low) * 0.02
    if room < max(abs(low), abs(high), 1e-300) * 1e-12:
        room = max(abs(high), 1e-12) * 0.1
    if not math.isfinite(room):
        room = 0.0
    return Scale(low - room, high + room, log)


def grown(last: float, total: float | None) -> float:
    """The right end of a growing step axis: it moves rarely, so that the picture stays where it is."""
    end = 16.0
    while end < last:
        end *= 1.5
    return min(end, total) if total is not None and total >= last and total > 0 else end


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers (1, 2 or 5 times a power of ten) inside a range."""
    span = high - low
    if most < 1 or not span > 0 or not math.isfinite(span):
        return []
    power = 10.0 ** math.floor(math.log10(span / most)) if span / most > 0 else span
    for factor in (1, 2, 5, 10, 20, 50):
        step = power * factor
        first = math.ceil(low / step - 1e-9)
        number = math.floor(high / step + 1e-9) - first + 1
        if number <= most:
            places = [(first + i) * step for i in range(number)]
            # Where the range is narrow beside its values, rounding would put some outside.
            return [place for place in places if low - step * 1e-9 <= place <= high + step * 1e-9]
    return []


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers inside a range that is given in log10."""
    # A power beyond these is no number any more.
    first, last = max(math.floor(low), -307), min(math.ceil(high), 308)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        marks = [f * 10.0**p for p in range(first, last + 1) for f in factors]
        inside = [mark for mark in marks if low <= math.log10(mark) <= high]
        if len(inside) <= most:
            # Inside one decade the round numbers of a linear axis say more than a single power.
            return inside if len(inside) > 1 else ticks(10.0**low, 10.0**high, most)
    stride = -(-(last - first + 1) // max(most, 1))
    return [10.0**p for p in range(first, last + 1, stride) if low <= p <= high]


def label(value: float) -> str:
    """A tick's label in at most `LABEL_WIDTH` characters."""
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-3 <= size < 1e4:
        text = f"{value:.4g}"
        if len(text) <= LABEL_WIDTH:
            return text
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if scale <= size < scale * 1e3:
            return f"{value / scale:.3g}{prefix}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")[:LABEL_WIDTH]
