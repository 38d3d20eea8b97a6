"""Methods that merge differences to a base: task arithmetic, TIES, DARE, DELLA, breadcrumbs.

All are one frame: keep some of each model's differences, weigh them, perhaps agree on a sign, add them to
the base. The differences are computed block by block and never stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from forge.merge.blocks import Array, over_blocks, spans
from forge.merge.group import Group
from forge.merge.sparsify import (
    Delta,
    Keep,
    RescaleNorm,
    cut,
    drop,
    everything,
    magprune,
    match_l1,
    trim,
)

_TINY = 1e-8


def task_arithmetic(
    group: Group, *, weight: Sequence[float], normalize: bool = False, lamb: float = 1.0
) -> Array:
    """`base + λ Σ wᵢ (θᵢ - base)` (Ilharco et al. 2022, arXiv 2212.04089)."""
    return _add_deltas(group, [everything] * len(weight), weight, normalize, lamb)


def ties(
    group: Group,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool = True,
    rescale: bool = False,
    lamb: float = 1.0,
) -> Array:
    """Trim, elect a sign by mass, average those that agree with it (arXiv 2306.01708)."""
    keeps = [trim(delta, d) for delta, d in zip(_deltas(group), density, strict=True)]
    return _add_elected(group, _matched(group, keeps, rescale), weight, normalize, lamb)


def dare_linear(
    group: Group,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool = False,
    rescale: bool = True,
    rescale_norm: RescaleNorm = "paper",
    lamb: float = 1.0,
) -> Array:
    """Drop differences at random, rescale the others, add them (arXiv 2311.03099)."""
    return _add_deltas(group, _dropped(group, density, rescale, rescale_norm), weight, normalize, lamb)


def dare_ties(
    group: Group,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool = False,
    rescale: bool = True,
    rescale_norm: RescaleNorm = "paper",
    lamb: float = 1.0,
) -> Array:
    """Drop as DARE does, then elect a sign and add as TIES does (arXiv 2311.03099, section 3.3)."""
    return _add_elected(group, _dropped(group, density, rescale, rescale_norm), weight, normalize, lamb)


def della(
    group: Group,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    epsilon: Sequence[float],
    normalize: bool = True,
    rescale: bool = True,
    rescale_norm: RescaleNorm = "paper",
    lamb: float = 1.0,
) -> Array:
    """Drop small differences rather than large ones, elect a sign, average (arXiv 2406.11617)."""
    keeps = _pruned(group, density, epsilon, rescale, rescale_norm)
    return _add_elected(group, keeps, weight, normalize, lamb, Delta(group, 0).unit)


def della_linear(
    group: Group,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    epsilon: Sequence[float],
    normalize: bool = False,
    rescale: bool = True,
    rescale_norm: RescaleNorm = "paper",
    lamb: float = 1.0,
) -> Array:
    """Drop small differences rather than large ones, and add the others (arXiv 2406.11617)."""
    keeps = _pruned(group, density, epsilon, rescale, rescale_norm)
    return _add_deltas(group, keeps, weight, normalize, lamb, Delta(group, 0).unit)


def breadcrumbs(
    group: Group,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    normalize: bool = False,
    rescale: bool = False,
    lamb: float = 1.0,
) -> Array:
    """Leave out the largest and the smallest differences, and add the others (arXiv 2312.06795)."""
    keeps = [cut(delta, d, g) for delta, d, g in zip(_deltas(group), density, gamma, strict=True)]
    return _add_deltas(group, _matched(group, keeps, rescale), weight, normalize, lamb)


def _deltas(group: Group) -> list[Delta]:
    return [Delta(group, model) for model in range(len(group.tensors))]


def _matched(group: Group, keeps: Sequence[Keep], rescale: bool, unit: int = 1) -> list[Keep]:
    if not rescale:
        return list(keeps)
    return [match_l1(delta, keep, unit) for delta, keep in zip(_deltas(group), keeps, strict=True)]


def _dropped(group: Group, density: Sequence[float], rescale: bool, norm: RescaleNorm) -> list[Keep]:
    by_paper = rescale and norm == "paper"
    keeps = [drop(delta, d, by_paper) for delta, d in zip(_deltas(group), density, strict=True)]
    return _matched(group, keeps, rescale and norm == "l1")


def _pruned(
    group: Group, density: Sequence[float], epsilon: Sequence[float], rescale: bool, norm: RescaleNorm
) -> list[Keep]:
    by_paper = rescale and norm == "paper"
    keeps = [
        magprune(delta, d, e, by_paper) for delta, d, e in zip(_deltas(group), density, epsilon, strict=True)
    ]
    return _matched(group, keeps, rescale and norm == "l1", Delta(group, 0).unit)


def _add_deltas(
    group: Group, keeps: Sequence[Keep], weight: Sequence[float], normalize: bool, lamb: float, unit: int = 1
) -> Array:
    """`base + λ Σ wᵢ kept(δᵢ)`, divided by `Σ wᵢ` where `normalize`."""
    base, result = group.flat_base(), np.empty_like(group.flat_base())
    share = math.fsum(weight)
    scale = np.float32(lamb / share if normalize and abs(share) >= _TINY else lamb)
    deltas = _deltas(group)

    def body(block: slice) -> None:
        mixed = result[block]
        mixed.fill(0.0)
        for delta, keep, w in zip(deltas, keeps, weight, strict=True):
            values = delta.block(block)
            keep(values, block)
            values *= np.float32(w)
            mixed += values
        if scale != 1.0:
            mixed *= scale
        mixed += base[block]

    over_blocks(result.size, body, unit)
    return result.reshape(group.shape)


def _add_elected(
    group: Group, keeps: Sequence[Keep], weight: Sequence[float], normalize: bool, lamb: float, unit: int = 1
) -> Array:
    """As `_add_deltas`, but only of those entries whose sign is the sign of the sum; 0 counts as plus.

    `normalize` divides each entry by the weights that agreed there.
    """
    base, result = group.flat_base(), np.empty_like(group.flat_base())
    deltas = _deltas(group)
    zeros = np.zeros(
        max(b.stop - b.start for b in spans(result.size, unit)) if result.size else 0, np.float32
    )

    def body(block: slice) -> None:
        # Both outcomes are summed up at once, because the sign is known only at the end.
        plus, minus, plus_weight, minus_weight = np.zeros((4, block.stop - block.start), np.float32)
        for delta, keep, w in zip(deltas, keeps, weight, strict=True):
            values = delta.block(block)
            keep(values, block)
            factor = np.float32(w)
            values *= factor
            if normalize:
                plus_weight += (values > 0) * factor
                minus_weight += (values < 0) * factor
            positive = np.maximum(values, zeros[: values.size])
            plus += positive
            values -= positive
            minus += values
        elected = plus + minus >= 0
        mixed = _either(elected, plus, minus)
        if normalize:
            divisor = _either(elected, plus_weight, minus_weight)
            divisor += divisor == 0
            mixed /= divisor
        if lamb != 1.0:
            mixed *= np.float32(lamb)
        np.add(base[block], mixed, out=result[block])

    over_blocks(result.size, body, unit)
    return result.reshape(group.shape)


def _either(first: npt.NDArray[np.bool_], a: Array, b: Array) -> Array:
    """`a` where `first`, else `b`; both are used up. Products, because choosing takes ten times as long."""
    a *= first
    b *= ~first
    a += b
    return a
