"""A metric kept in bounded memory: every point belongs to a bucket that remembers its extremes.

When the buffer is full, neighbouring buckets are merged in pairs, so no spike is ever lost, however long
the run. A view shares the buffer's arrays: what it shows never changes afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from forge.registry.rows import BucketRow, PointRow

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CAPACITY = 4096


@dataclass(frozen=True, eq=False)
class SeriesView:
    """What a chart needs of a series; all arrays have the same length and are read only."""

    first: Ints
    """First step of each bucket."""
    step: Ints
    """Last step of each bucket, rising."""
    low: Floats
    """Smallest finite value; NaN where there is none."""
    high: Floats
    value: Floats
    """Last finite value."""
    broken: Ints
    """How many values were NaN or infinite."""
    latest: float
    """The newest value as it was logged, NaN and infinities included."""

    @property
    def last_step(self) -> int:
        """The newest step; -1 when there is none."""
        return int(self.step[-1]) if self.step.size else -1

    def __len__(self) -> int:
        return int(self.step.size)


class Series:
    """A growing series of at most `capacity` buckets."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 2 or capacity % 2:
            raise ValueError("capacity must be even and at least 2")
        self._capacity = capacity
        self.epoch: int | None = None
        self.clear()

    def clear(self) -> None:
        """Forget everything, as after a rewind."""
        self._size = 0
        self._ints = np.zeros((3, self._capacity), np.int64)  # first, step, broken
        self._floats = np.full((3, self._capacity), np.nan)  # low, high, value
        self._latest = float("nan")

    @property
    def last_step(self) -> int:
        """The newest step; -1 when there is none."""
        return int(self._ints[1, self._size - 1]) if self._size else -1

    def __len__(self) -> int:
        return self._size

    def extend(self, points: Sequence[PointRow]) -> None:
        """Append points of rising steps, newer than all before."""
        if points:
            self.extend_arrays(
                np.array([p.step for p in points], np.int64), np.array([p.value for p in points], np.float64)
            )

    def extend_arrays(self, steps: Ints, values: Floats) -> None:
        """Append points given as arrays; see `extend`."""
        finite = np.isfinite(values)
        kept = np.where(finite, values, np.nan)
        ints = np.stack([steps, steps, (~finite).astype(np.int64)])
        self._append(ints, np.stack([kept, kept, kept]))
        if values.size:
            self._latest = float(values[-1])

    def extend_buckets(self, buckets: Sequence[BucketRow]) -> None:
        """Append buckets that SQL made of a long stretch, newer than all before."""
        if not buckets:
            return
        ints = np.array([(b.first_step, b.last_step, b.broken) for b in buckets], np.int64).T
        nan = float("nan")
        floats = np.array(
            [tuple(nan if v is None else v for v in (b.low, b.high, b.last)) for b in buckets], np.float64
        ).T
        self._append(ints, np.where(np.isfinite(floats), floats, np.nan))
        self._latest = float(self._floats[2, self._size - 1])

    def view(self) -> SeriesView:
        """What is there now; later changes do not show in it."""
        ints, floats = self._ints[:, : self._size], self._floats[:, : self._size]
        ints.flags.writeable = floats.flags.writeable = False
        return SeriesView(ints[0], ints[1], floats[0], floats[1], floats[2], ints[2], self._latest)

    def _append(self, ints: Ints, floats: Floats) -> None:
        start = 0
        while start < ints.shape[1]:
            if self._size == self._capacity:
                self._merge_pairs()
            take = min(self._capacity - self._size, ints.shape[1] - start)
            end = self._size + take
            self._ints[:, self._size : end] = ints[:, start : start + take]
            self._floats[:, self._size : end] = floats[:, start : start + take]
            self._size, start = end, start + take

    def _merge_pairs(self) -> None:
        # New arrays, never in place: a view may still look at the old ones.
        left, right = self._ints[:, 0::2], self._ints[:, 1::2]
        half = left.shape[1]
        ints = np.zeros_like(self._ints)
        ints[0, :half], ints[1, :half], ints[2, :half] = left[0], right[1], left[2] + right[2]
        before, after = self._floats[:, 0::2], self._floats[:, 1::2]
        floats = np.full_like(self._floats, np.nan)
        floats[0, :half] = np.fmin(before[0], after[0])
        floats[1, :half] = np.fmax(before[1], after[1])
        floats[2, :half] = np.where(np.isnan(after[2]), before[2], after[2])
        self._ints, self._floats, self._size = ints, floats, half


EMPTY = Series(2).view()
"""The view of a series without points."""
