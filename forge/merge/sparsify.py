"""What is kept of the differences to the base: by size, at random, or both.

Each function returns a `Keep`, which works in place on one block of one model's differences. Entries that
are equally large are kept together, so the outcome does not depend on the order of the elements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from forge.merge.blocks import Array, nth_smallest, over_blocks
from forge.merge.group import Group

Keep = Callable[[Array, slice], None]
"""Changes the differences of a block in place."""
RescaleNorm = Literal["paper", "l1"]
_UNIFORM = 2.0**32
_TINY = 1e-7


@dataclass(frozen=True)
class Delta:
    """The differences of one model to the base, computed where they are needed."""

    group: Group
    model: int

    @property
    def unit(self) -> int:
        """Elements of a row: of the first dimension where there are two or more, else all."""
        rows = self.group.shape[0] if len(self.group.shape) > 1 else 1
        return max(1, self.group.size // max(1, rows))

    def block(self, block: slice) -> Array:
        """Differences of a block, in memory of its own."""
        values: Array = self.group.flat[self.model][block] - self.group.flat_base()[block]
        return values

    def magnitude(self, block: slice) -> Array:
        """Their absolute values."""
        values = self.block(block)
        np.abs(values, out=values)
        return values

    def magnitude_at(self, positions: npt.NDArray[np.int64]) -> Array:
        """Absolute values at some positions."""
        values: Array = np.abs(self.group.flat[self.model][positions] - self.group.flat_base()[positions])
        return values

    def nth_magnitude(self, rank: int) -> np.float32:
        """The absolute value that is at place `rank` from below."""
        return nth_smallest(self.group.size, rank, self.magnitude, self.magnitude_at)


def everything(values: Array, block: slice) -> None:
    """Keep all."""


def nothing(values: Array, block: slice) -> None:
    """Keep none."""
    values.fill(0.0)


def trim(delta: Delta, density: float) -> Keep:
    """Keep the largest `density` of the differences, at least one (TIES, arXiv 2306.01708, section 3)."""
    size = delta.group.size
    if density >= 1.0 or size == 0:
        return everything
    if density <= 0.0:
        return nothing
    least = delta.nth_magnitude(size - max(1, int(density * size)))

    def keep(values: Array, block: slice) -> None:
        values *= np.abs(values) >= least

    return keep


def cut(delta: Delta, density: float, gamma: float) -> Keep:
    """Leave out the largest `gamma` and the smallest `1 - density - gamma` (arXiv 2312.06795, section 3).

    Where both do not fit, fewer of the largest are left out, so that `density` holds.
    """
    size = delta.group.size
    if density >= 1.0 or size == 0:
        return everything
    kept = int(density * size)
    if kept == 0:
        return nothing
    first = max(0, size - kept - int(gamma * size))
    least, most = delta.nth_magnitude(first), delta.nth_magnitude(first + kept - 1)

    def keep(values: Array, block: slice) -> None:
        magnitude = np.abs(values)
        values *= (magnitude >= least) & (magnitude <= most)

    return keep


def drop(delta: Delta, density: float, rescale: bool) -> Keep:
    """Keep each difference with probability `density`, divided by it (DARE, arXiv 2311.03099, eq. 2)."""
    if density >= 1.0:
        return everything
    if density <= 0.0:
        return nothing
    limit = np.uint32(min(round(density * _UNIFORM), 2**32 - 1))
    scale = np.float32(1.0 / density)

    def keep(values: Array, block: slice) -> None:
        values *= delta.group.draw(delta.model, block) < limit
        if rescale:
            values *= scale

    return keep


def magprune(delta: Delta, density: float, epsilon: float, rescale: bool) -> Keep:
    """Keep a difference the likelier the larger it is in its row (DELLA, arXiv 2406.11617, section 3.1).

    The probability goes in equal steps from `density - epsilon` for the smallest of a row to
    `density + epsilon` for its largest; what is kept is divided by its own probability.
    """
    if density >= 1.0:
        return everything
    if density <= 0.0:
        return nothing
    length = delta.unit
    steps = np.linspace(density - epsilon, density + epsilon, length, dtype=np.float32)
    if length == 1:
        steps[0] = density

    def keep(values: Array, block: slice) -> None:
        rows = values.reshape(-1, length)  # (rows, length)
        order = np.argsort(np.abs(rows), axis=1)
        by_row = np.empty_like(rows)
        np.put_along_axis(by_row, order, steps[None, :], axis=1)
        probability = by_row.reshape(-1)
        drawn = delta.group.draw(delta.model, block) * np.float32(1.0 / _UNIFORM)
        values *= drawn < probability
        if rescale:
            values /= probability

    return keep


def match_l1(delta: Delta, keep: Keep, unit: int = 1) -> Keep:
    """`keep`, and then one factor for the whole tensor that restores its sum of absolute values."""
    if keep in (everything, nothing):
        return keep

    def sums(block: slice) -> tuple[float, float]:
        values = delta.block(block)
        before = float(np.abs(values).sum())
        keep(values, block)
        return before, float(np.abs(values).sum())

    parts = over_blocks(delta.group.size, sums, unit)
    before, after = sum(part[0] for part in parts), sum(part[1] for part in parts)
    if before < _TINY or after < _TINY:
        return keep
    scale = np.float32(before / after)

    def rescaled(values: Array, block: slice) -> None:
        keep(values, block)
        values *= scale

    return rescaled
