"""From a long series to one span per column: the arithmetic under every chart.

A span reaches from the smallest to the largest value that falls into its column, so decimation never loses
a spike; a NaN or infinity breaks the line and is reported by its column. All vectorised, no Python loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forge_tui.charts.series import Floats, Ints, SeriesView

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Columns:
    """A series reduced to the columns of a chart; NaN where a column has no finite value."""

    low: Floats
    high: Floats
    mean: Floats
    broken: Bools
    """Columns with a NaN or infinity in them."""


def reduce_columns(view: SeriesView, start: float, end: float, n: int) -> Columns:
    """Reduce the steps `start … end` of a series to `n` columns of equal width."""
    inside = slice(int(np.searchsorted(view.step, start)), int(np.searchsorted(view.step, end, side="right")))
    steps = view.step[inside]
    low, high, mean = np.full((3, n), np.nan)
    result = Columns(low, high, mean, np.zeros(n, np.bool_))
    if not steps.size or n <= 0:
        return result
    where = _column_of(steps, start, end, n)
    starts = np.flatnonzero(np.diff(where, prepend=-1))
    columns = where[starts]
    # fmin and fmax skip NaN, so a column is NaN only when nothing in it is finite.
    result.low[columns] = np.fmin.reduceat(view.low[inside], starts)
    result.high[columns] = np.fmax.reduceat(view.high[inside], starts)
    values = view.value[inside]
    finite = np.isfinite(values)
    number = np.add.reduceat(finite, starts, dtype=np.int64)
    total = np.add.reduceat(np.where(finite, values, 0.0), starts)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        result.mean[columns] = np.where(number > 0, total / number, np.nan)
    result.broken[columns] = np.add.reduceat(view.broken[inside], starts) > 0
    return result


def smooth(columns: Columns, radius: int) -> Floats:
    """The mean of each column and its neighbours, weighted by a triangle; NaN where nothing is near.

    Centred, so the bright line does not lag behind the faint one.
    """
    finite = np.isfinite(columns.mean)
    if radius < 1 or not finite.any():
        return columns.mean
    kernel = np.concatenate([np.arange(1, radius + 2), np.arange(radius, 0, -1)]).astype(np.float64)
    size = columns.mean.size
    weighted = np.convolve(np.where(finite, columns.mean, 0.0), kernel)[radius : radius + size]
    weights = np.convolve(finite.astype(np.float64), kernel)[radius : radius + size]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(finite, weighted / weights, np.nan)


def bridge(values: Floats, broken: Bools) -> Floats:
    """Fill columns between two values by a straight line, but never across a broken one."""
    known = np.flatnonzero(np.isfinite(values))
    if known.size < 2:
        return values
    every = np.arange(values.size)
    filled = np.interp(every, known, values[known], left=np.nan, right=np.nan)
    breaks = np.concatenate([[0], np.cumsum(broken & ~np.isfinite(values))])
    following = np.searchsorted(known, every)
    before = known[np.clip(following - 1, 0, known.size - 1)]
    after = known[np.clip(following, 0, known.size - 1)]
    whole = breaks[after] == breaks[before + 1]
    return np.where(np.isfinite(values), values, np.where(whole, filled, np.nan))


def connect(top: Ints, bottom: Ints, valid: Bools) -> tuple[Ints, Ints]:
    """Lengthen spans so that neighbouring ones touch, as a pen would draw them."""
    joined = np.concatenate([[False], valid[1:] & valid[:-1]])
    before_top, before_bottom = np.roll(top, 1), np.roll(bottom, 1)
    reach_up = joined & (top > before_bottom + 1)
    reach_down = joined & (bottom < before_top - 1)
    return (
        np.where(reach_up, before_bottom + 1, top),
        np.where(reach_down, before_top - 1, bottom),
    )


def _column_of(steps: Ints, start: float, end: float, n: int) -> Ints:
    scale = n / (end - start) if end > start else 0.0
    return np.minimum(((steps - start) * scale).astype(np.int64), n - 1)
