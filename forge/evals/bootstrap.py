"""Confidence intervals by resampling items (Efron 1979; percentile intervals), seeded, so that they repeat.

Two models that answered the same items are compared item by item: what makes an item hard is then in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 2000
_BLOCK = 2**20
"""Most indices that are drawn at once."""


@dataclass(frozen=True)
class Interval:
    """A mean, and where 95 of 100 such intervals hold the true one."""

    mean: float
    low: float
    high: float


def mean_interval(items: NDArray[np.float64], seed: int = 0) -> Interval:
    """The mean over items, each a number; raises ValueError without any."""
    if not len(items):
        raise ValueError("there is no item to take a mean of")
    generator = np.random.default_rng(seed)
    at_once = max(1, _BLOCK // len(items))
    means: list[NDArray[np.float64]] = []
    for start in range(0, RESAMPLES, at_once):
        shape = (min(at_once, RESAMPLES - start), len(items))
        means.append(items[generator.integers(len(items), size=shape)].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(items.mean()), float(low), float(high))


def paired_interval(a: NDArray[np.float64], b: NDArray[np.float64], seed: int = 0) -> Interval:
    """How much more `a` has than `b` on the mean of the same items; raises ValueError for other items."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} items beside {len(b)}: they are not the same ones")
    return mean_interval(a - b, seed)
