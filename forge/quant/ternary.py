"""BitNet b1.58: ternary weights, int8 activations (Ma et al. 2024, arXiv 2402.17764, eq. 1-3).

What a training forward multiplies with is exactly what a packed file stores: the scale is rounded to a
number that fp16 (the stored type), bf16 and fp32 all hold, so `codes * scale` is exact under every autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forge.errors import TrainingError

EPS = 1e-5
"""Least absmean and absmax, so that an all-zero tensor has a scale."""
ACTIVATION_LEVELS = 127


def absmean(weight: Tensor) -> Tensor:
    """Mean magnitude of the whole tensor, at least 1e-5: 0-dim fp32."""
    return weight.float().abs().mean().clamp(min=EPS)


def stored_scale(gamma: Tensor) -> Tensor:
    """`gamma` as a file stores it, in fp32.

    Eight significant bits: every bf16 number from 1e-5 to 65,280 is also an fp16 number. A scale that
    is up to 0.2 % off costs nothing, training sees the same one.
    """
    return gamma.to(torch.bfloat16).float()


def ternary_codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} (int8, the shape of `weight`) and their stored scale (0-dim fp32).

    Codes are round(w / gamma), half to even, with the unrounded gamma. An all-zero tensor gives zeros.

    Raises:
        TrainingError: the tensor holds NaN or infinite values, or its scale does not fit fp16.
    """
    gamma = absmean(weight)
    scale = stored_scale(gamma)
    if not bool(torch.isfinite(weight).all()) or not bool(torch.isfinite(scale.half())):
        bad = int((~torch.isfinite(weight)).sum())
        raise TrainingError(
            f"a weight of shape {tuple(weight.shape)} has no ternary form: {bad} values are NaN or infinite, "
            f"mean magnitude {float(gamma):.3g}; go back to a checkpoint from before the divergence"
        )
    return _round_to_ternary(weight, gamma).to(torch.int8), scale


def dequantise(codes: Tensor, scale: Tensor) -> Tensor:
    """codes * scale, in the scale's type."""
    return codes.to(scale.dtype) * scale


def ternary_view(weight: Tensor) -> Tensor:
    """`dequantise(*ternary_codes(weight))` as plain float operations, for a training forward.

    A NaN or an infinity makes the whole result NaN, so that the loss shows it.
    """
    gamma = absmean(weight)
    return _round_to_ternary(weight, gamma) * stored_scale(gamma)


def quantise_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in -127..127 (int8, the shape of `x`) and the step (..., 1) of each token, `x ~ codes * step`."""
    codes, step = _round_to_int8(x)
    return codes.to(torch.int8), step


def int8_view(x: Tensor) -> Tensor:
    """`codes * step` of `quantise_activations` in fp32, as plain float operations."""
    codes, step = _round_to_int8(x)
    return codes * step


def _round_to_ternary(weight: Tensor, gamma: Tensor) -> Tensor:
    return (weight.float() / gamma).round().clamp(-1, 1)


def _round_to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    wide = x.float()
    peak = wide.abs().amax(dim=-1, keepdim=True).clamp(min=EPS)  # (..., 1)
    # No clip to -128..127: |x| <= peak, so the codes cannot leave -127..127.
    return (wide * (ACTIVATION_LEVELS / peak)).round(), peak / ACTIVATION_LEVELS
