"""Methods that average weights themselves: linear, SLERP, multi-SLERP; and passthrough.

Each is a pure function of a group and its parameters; sums are taken in the order of the models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from forge.errors import MergeError
from forge.merge.blocks import Array, dot, over_blocks, total
from forge.merge.group import Group

_NEARLY_PARALLEL = 0.9995
_TINY = 1e-8
_ROUNDING = 1e-6
"""A mean of unit vectors that is shorter is what rounding left of nothing."""


def linear(group: Group, *, weight: Sequence[float], normalize: bool = True) -> Array:
    """`Σ wᵢ θᵢ`, divided by `Σ wᵢ` where `normalize` (Wortsman et al. 2022, arXiv 2203.05482)."""
    return _weighted_sum(group.flat, weight, math.fsum(weight) if normalize else 1.0).reshape(group.shape)


def slerp(group: Group, *, t: float) -> Array:
    """Along the great circle from the base (t = 0) to the other model (t = 1) (Shoemake 1985).

    The angle is that between the tensors as vectors; the coefficients are applied to the tensors as they
    are. Nearly parallel or opposite ones are interpolated linearly, which norm gains as a rule are.
    """
    start, end = group.flat_base(), group.flat[0]
    lengths = [math.sqrt(dot(vector, vector)) for vector in (start, end)]
    scales = [length if length > _TINY else 1.0 for length in lengths]
    cosine = max(-1.0, min(1.0, dot(start, end) / (scales[0] * scales[1])))
    if abs(cosine) > _NEARLY_PARALLEL:
        weights = (1.0 - t, t)
    else:
        angle = math.acos(cosine)
        weights = (math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle))
    return _weighted_sum([start, end], weights).reshape(group.shape)


def multislerp(
    group: Group, *, weight: Sequence[float], normalize_weights: bool = True, eps: float = _TINY
) -> Array:
    """The weighted mean of directions, as long as the weighted mean of lengths (Goddard 2025).

    Defined as an interpolation in the tangent space at that mean direction, whose outcome is zero there by
    construction: the mean is where the weighted tangents cancel. So only the direction is computed. With a
    base, directions and lengths are those of the differences to it.
    """
    vectors, base = group.flat, None if group.base is None else group.flat_base()
    if len(vectors) == 1:
        return group.tensors[0].copy()
    share = math.fsum(weight) if normalize_weights else 1.0
    weights = [value / share for value in weight]
    lengths = [_length(vector, base) for vector in vectors]
    coefficients = [w / (length + eps) for w, length in zip(weights, lengths, strict=True)]
    mean = _weighted_sum(vectors, coefficients, base=base)
    length = math.sqrt(dot(mean, mean))
    if length < max(eps, _ROUNDING):
        return _cancelled(group, vectors, base, weights)
    scale = math.fsum(w * of for w, of in zip(weights, lengths, strict=True)) / length

    def finish(block: slice) -> None:
        mean[block] *= np.float32(scale)
        if base is not None:
            mean[block] += base[block]

    over_blocks(mean.size, finish)
    return mean.reshape(group.shape)


def passthrough(group: Group, *, scale: Sequence[float | None]) -> Array:
    """The tensor of the one model as it is, times `scale` where there is one."""
    if scale[0] is None or scale[0] == 1.0:
        return group.tensors[0].copy()
    return _weighted_sum(group.flat, [scale[0]]).reshape(group.shape)


def _weighted_sum(
    vectors: Sequence[Array], weights: Sequence[float], divisor: float = 1.0, base: Array | None = None
) -> Array:
    """`Σ wᵢ vᵢ / divisor`, of the differences to `base` where there is one."""
    result = np.zeros_like(vectors[0])

    def body(block: slice) -> None:
        target = result[block]
        scratch = np.empty_like(target)
        for vector, weight in zip(vectors, weights, strict=True):
            if base is None:
                np.multiply(vector[block], np.float32(weight), out=scratch)
            else:
                np.subtract(vector[block], base[block], out=scratch)
                scratch *= np.float32(weight)
            target += scratch
        if divisor != 1.0:
            target /= np.float32(divisor)

    over_blocks(result.size, body)
    return result


def _length(vector: Array, base: Array | None) -> float:
    if base is None:
        return math.sqrt(dot(vector, vector))

    def squares(block: slice) -> float:
        delta = vector[block] - base[block]
        return float((delta * delta).sum())

    return math.sqrt(total(vector.size, squares))


def _cancelled(group: Group, vectors: Sequence[Array], base: Array | None, weights: Sequence[float]) -> Array:
    if base is not None and all(_length(vector, base) == 0.0 for vector in vectors):
        return base.reshape(group.shape).copy()
    if len(vectors) > 2:
        raise MergeError(
            f"{group.name}: the weighted directions of the models cancel out, so multislerp has no result; "
            "change a weight"
        )
    # Two opposite tensors have no mean direction; between them lies a line.
    line = _weighted_sum(vectors, weights, base=base)
    return (line if base is None else line + base).reshape(group.shape)
