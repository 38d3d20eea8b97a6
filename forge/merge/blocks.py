"""Work on large tensors block by block on all cores: a block of every operand stays in the cache.

What a function over blocks returns never depends on the number of threads: blocks are cut by size alone,
and their results come back in order.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Array = npt.NDArray[np.float32]

BLOCK = 1 << 17
"""Elements: 512 KiB of float32; the operands of a step stay in the cache, and handing over costs little."""
_SAMPLE = 1 << 16
_RUNS_A_WORKER = 4


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def pool() -> ThreadPoolExecutor:
    """The threads of this process that compute; numpy lets go of the interpreter while it does."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="forge-merge")


def spans(size: int, unit: int = 1) -> list[slice]:
    """`size` elements in blocks, each of whole `unit`s."""
    step = max(1, BLOCK // unit) * unit
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def over_blocks(size: int, body: Callable[[slice], T], unit: int = 1) -> list[T]:
    """`body` of every block, in parallel; the results in the order of the blocks."""
    blocks = spans(size, unit)
    if len(blocks) < 2:
        return [body(block) for block in blocks]
    # Runs of blocks, because handing over a single one costs as much as computing it.
    length = math.ceil(len(blocks) / (cores() * _RUNS_A_WORKER))
    runs = [blocks[start : start + length] for start in range(0, len(blocks), length)]
    return [result for results in pool().map(lambda run: [body(b) for b in run], runs) for result in results]


def total(size: int, body: Callable[[slice], float]) -> float:
    """The sum of what `body` gives for each block, in float64."""
    return math.fsum(over_blocks(size, body))


def dot(a: Array, b: Array) -> float:
    """Inner product of two flat tensors."""
    return total(a.size, lambda block: float((a[block] * b[block]).sum()))


def nth_smallest(
    size: int, rank: int, values: Callable[[slice], Array], sample: Callable[[npt.NDArray[np.int64]], Array]
) -> np.float32:
    """The value that is at place `rank` when all are sorted, found exactly and without a copy of them.

    A sample brackets it, one pass counts what lies below and collects what lies inside, and only that is
    partitioned (Floyd and Rivest 1975). Where the bracket misses, everything is partitioned.

    Args:
        size: number of values.
        rank: 0 for the smallest, size - 1 for the largest.
        values: the values of a block.
        sample: the values at some positions.
    """
    low, high = np.float32(-np.inf), np.float32(np.inf)
    if size > 4 * _SAMPLE:
        positions = np.random.Generator(np.random.Philox(key=size)).integers(0, size, _SAMPLE)
        drawn = np.sort(sample(positions))
        middle, slack = rank / size * _SAMPLE, 2.5 * math.sqrt(_SAMPLE) + 2
        low = drawn[int(middle - slack)] if middle >= slack else low
        high = drawn[int(middle + slack)] if middle + slack < _SAMPLE else high

    def bracket(block: slice) -> tuple[int, Array]:
        found = values(block)
        below = int(np.count_nonzero(found < low))
        return below, found[(found >= low) & (found <= high)]

    parts = over_blocks(size, bracket)
    place = rank - sum(below for below, _ in parts)
    inside = np.concatenate([part for _, part in parts])
    if not 0 <= place < inside.size:
        place, inside = rank, np.concatenate(over_blocks(size, values))
    return np.float32(np.partition(inside, place)[place])
