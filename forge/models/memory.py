"""Neural memory of a block: what a text has taught it so far, and the gate that puts it beside attention.

The state belongs to one sequence: it starts from learned first weights, begins anew with each document and
never meets another sequence of the batch. The persistent tokens that Titans puts before the text would
only move the first weights, which are learned anyway; so they stand before the attention alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forge.config import ModelConfig
from forge.models.layers import Projection, RMSNorm, wide
from forge.models.scan import MemoryState, Tokens, remember, step

FORGET, MOMENTUM, RATE = -6.0, 0.0, -4.0
"""First biases of alpha (a half-life of 280 tokens), eta (one half) and theta (0.018 of its upper end)."""


@dataclass
class MemoryCache:
    """The state of one block's memory, and the last inputs of its convolution."""

    state: MemoryState
    tail: Tensor
    """(B, conv - 1, 3 * d_model), zeros before the text."""


class CausalConvolution(nn.Module):
    """Depth-wise convolution over the last `size` tokens of the same document."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, size))
        """Column 0 is for the token itself, column j for the one j before it."""

    def draw(self, generator: torch.Generator) -> None:
        """First weights: mostly the token itself."""
        drawn = torch.randn(self.weight.shape, generator=generator, device=generator.device)
        self.weight.copy_(0.3 * drawn)
        self.weight[:, 0] += 1.0

    def forward(self, x: Tensor, documents: Tensor | None, tail: Tensor | None) -> Tensor:
        """(B, T, W) -> (B, T, W); `tail` is what stood before, and `documents` (B, S) ends with these T."""
        length, size = x.shape[1], self.weight.shape[1]
        before = x.new_zeros(x.shape[0], size - 1, x.shape[2]) if tail is None else tail
        padded = torch.cat((before, x), dim=1)  # (B, size - 1 + T, W)
        if documents is not None:
            documents = F.pad(documents, (size - 1, 0), value=-1)[:, -(length + size - 1) :]
        y = x * self.weight[:, 0]
        for back in range(1, size):
            start = size - 1 - back
            shifted = padded[:, start : start + length]
            if documents is not None:
                own, other = documents[:, size - 1 :], documents[:, start : start + length]
                shifted = shifted * (own == other).unsqueeze(-1)
            y = y + shifted * self.weight[:, back]
        return y.to(x.dtype)


class RateProjection(nn.Linear):
    """Logits of alpha, eta and theta of every memory; in full precision, whatever the body is."""

    def reset_parameters(self) -> None:
        """Start at zero, where torch would draw from the global generator."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def draw(self, generator: torch.Generator) -> None:
        """First rates: the same for all tokens, but for a little."""
        drawn = torch.randn(self.weight.shape, generator=generator, device=generator.device)
        self.weight.copy_(0.02 * drawn)
        for bias, value in zip(self.bias.chunk(3), (FORGET, MOMENTUM, RATE), strict=True):
            bias.fill_(value)


class FirstWeights(nn.ParameterList):
    """The weights that every document starts with, each (H, in, out)."""

    def __init__(self, heads: int, sizes: list[int]) -> None:
        super().__init__(nn.Parameter(torch.zeros(heads, a, b)) for a, b in pairwise(sizes))

    def draw(self, generator: torch.Generator) -> None:
        """A matrix starts as nothing; below it an MLP needs a layer that lets a gradient through."""
        for layer in list(self)[:-1]:
            drawn = torch.randn(layer.shape, generator=generator, device=generator.device)
            layer.copy_(drawn / math.sqrt(layer.shape[1]))


class NeuralMemory(nn.Module):
    """Titans' long-term memory (arXiv 2501.00663, section 3.1): learns k -> v at test time, reads at q."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        memory = config.memory
        if memory is None:
            raise ValueError("this configuration has no memory")
        width, self.n_heads = config.d_model, memory.n_heads
        self.chunk, self.max_rate, self.max_surprise = memory.chunk, memory.max_rate, memory.max_surprise
        self.q = Projection(width, width)
        self.k = Projection(width, width)
        self.v = Projection(width, width)
        self.conv = CausalConvolution(3 * width, memory.conv)
        self.rates = RateProjection(width, 3 * memory.n_heads)
        size = width // memory.n_heads
        inner = [memory.expansion * size] * (memory.depth - 1)
        self.first = FirstWeights(memory.n_heads, [size, *inner, size])

    def forward(
        self, x: Tensor, documents: Tensor | None, cache: MemoryCache | None
    ) -> tuple[Tensor, MemoryCache]:
        """(B, T, d_model) -> the same, and the cache after it; a cache takes one token more.

        `documents` (B, S) numbers the documents of all tokens so far, the last T are these.
        """
        length = x.shape[1]
        prepared = self.q.prepare(x)
        mixed = torch.cat([part.project(prepared) for part in (self.q, self.k, self.v)], dim=-1)
        tail = None if cache is None else cache.tail
        tokens = self._tokens(x, F.silu(self.conv(mixed, documents, tail)))
        first = list(self.first)
        if cache is None:
            y, state = remember(tokens, first, self.chunk, self.max_surprise, documents)
            tail = F.pad(mixed, (0, 0, self.conv.weight.shape[1] - 1, 0))
        else:
            starts = None if documents is None else documents[:, -1] != documents[:, -2]
            y, state = step(tokens, first, cache.state, self.chunk, self.max_surprise, starts)
            tail = torch.cat((cache.tail, mixed), dim=1)
        kept = tail[:, tail.shape[1] - self.conv.weight.shape[1] + 1 :]
        y = y.transpose(1, 2).reshape(len(x), length, -1)  # (B, T, d_model)
        return y.to(x.dtype), MemoryCache(state, kept)

    def _tokens(self, x: Tensor, mixed: Tensor) -> Tokens:
        """Vectors of unit length where to write and read, and the rates; all in fp32 under autocast."""
        q, k, v = (
            wide(part).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in mixed.chunk(3, -1)
        )  # (B, H, T, D)
        forget, momentum, rate = wide(self.rates(x)).transpose(1, 2).chunk(3, dim=1)  # (B, H, T)
        return Tokens(
            F.normalize(q, dim=-1),
            F.normalize(k, dim=-1),
            v,
            log_keep=F.logsigmoid(-forget),
            log_eta=F.logsigmoid(momentum),
            theta=self.max_rate * torch.sigmoid(rate),
        )


class MagGate(nn.Module):
    """o = norm(attention) * sigmoid(norm(memory)), each norm with a gain of its own (Titans, eq. 28).

    An empty memory reads 0 and opens the gate by one half everywhere: attention passes as it is.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, eps)
        self.memory_norm = RMSNorm(width, eps)

    def forward(self, attention: Tensor, memory: Tensor) -> Tensor:
        """Both (B, T, d_model)."""
        normed: Tensor = self.attention_norm(attention)
        return normed * self.opening(memory)

    def opening(self, memory: Tensor) -> Tensor:
        """How far the memory opens the gate, in 0..1."""
        return torch.sigmoid(self.memory_norm(memory))
