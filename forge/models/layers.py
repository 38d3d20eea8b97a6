"""Parts of the decoder: RMSNorm, rotary positions, linear layers in two halves.

Building a layer never draws a random number: weights are zero until `Decoder.initialise` or a loaded
file fills them, so that making a model cannot disturb a run in the same process.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4), in fp32.

    Written as plain operations: the compiler fuses them with what stands before and after.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; the result has the type of `x`."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)  # (..., 1)
        return (wide * scale * self.weight).to(x.dtype)


class Projection(nn.Linear):
    """A linear layer without bias, in two halves.

    Layers that read the same input (queries, keys and values; gate and up) share its preparation, which
    is nothing here and a quantisation in `forge.quant.linear.QuantizedLinearSTE`.
    """

    def __init__(self, in_features: int, out_features: int, device: torch.device | str | None = None) -> None:
        super().__init__(in_features, out_features, bias=False, device=device)

    def reset_parameters(self) -> None:
        """Start at zero, where torch would draw from the global generator."""
        nn.init.zeros_(self.weight)

    def prepare(self, x: Tensor) -> Tensor:
        """What this layer and its siblings do to their common input (..., in)."""
        return x

    def project(self, prepared: Tensor) -> Tensor:
        """(..., in) -> (..., out) for an input that went through `prepare`."""
        return F.linear(prepared, self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self.project(self.prepare(x))


class TokenEmbedding(nn.Embedding):
    """Token table (V, D), tied with the head."""

    def reset_parameters(self) -> None:
        """Start at zero, where torch would draw from the global generator."""
        nn.init.zeros_(self.weight)


def rotary_table(length: int, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 34).

    Both halves of a head turn by the same angles (the layout of Llama checkpoints); shapes
    (length, 1, head_size), fp32, computed in fp64 so that every machine gets the same table.
    """
    pair = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
    angle = torch.outer(torch.arange(length, dtype=torch.float64), theta**-pair)  # (length, head_size / 2)
    full = torch.cat((angle, angle), dim=-1).unsqueeze(1)
    return full.cos().float(), full.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys (B, T, H, D) by their positions; tables are (T, 1, D) or (B, T, 1, D)."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def wide(x: Tensor) -> Tensor:
    """fp32 where autocast has made it less."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
