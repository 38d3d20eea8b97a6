"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), batched over matrices of one shape.

The same update as `torch.optim.Muon`, whose state and settings it keeps; only the order of the work
differs. torch's own loop launches some 25 kernels a matrix, more than a small model's whole backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (original scale rule, Nesterov momentum), batched."""

    iterate_in: torch.dtype | None = None
    """Type of the Newton-Schulz iterations; none is bf16 on CUDA, as torch does it everywhere, and the
    gradient's own on the CPU, where bf16 products are slow on most machines."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every matrix that has a gradient; takes no closure."""
        if closure is not None:
            raise ValueError("Muon here takes no closure")
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            momenta = [self._momentum(p) for p in params]
            torch._foreach_lerp_(momenta, grads, 1.0 - group["momentum"])
            updates = torch._foreach_lerp(grads, momenta, group["momentum"])
            directions = orthogonalise(
                list(updates), group["ns_coefficients"], group["ns_steps"], group["eps"], self.iterate_in
            )
            torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
            scales = [-group["lr"] * math.sqrt(max(1.0, p.shape[0] / p.shape[1])) for p in params]
            torch._foreach_mul_(directions, scales)
            torch._foreach_add_(params, directions)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def orthogonalise(
    matrices: Sequence[Tensor],
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """The zeroth power of each matrix, by `steps` quintic Newton-Schulz steps in `dtype` (see `Muon`)."""
    result: list[Tensor] = list(matrices)
    stacks: dict[torch.Size, list[int]] = {}
    for i, matrix in enumerate(matrices):
        stacks.setdefault(matrix.shape, []).append(i)
    for (rows, columns), indices in stacks.items():
        stack = torch.stack([matrices[i] for i in indices])  # (N, rows, columns)
        tall = rows > columns
        iterated = stack.to(dtype or (torch.bfloat16 if stack.is_cuda else stack.dtype))
        solved = _newton_schulz(iterated.mT if tall else iterated, coefficients, steps, eps)
        # Contiguous, so that the update of the weights is one kernel too.
        solved = (solved.mT if tall else solved).to(stack.dtype).contiguous()
        for i, matrix in zip(indices, solved.unbind(), strict=True):
            result[i] = matrix
    return result


def _newton_schulz(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Of wide matrices (N, rows, columns), rows <= columns."""
    a, b, c = coefficients
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)  # spectral norm at most 1
    for _ in range(steps):
        gram = x @ x.mT  # (N, rows, rows)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x
