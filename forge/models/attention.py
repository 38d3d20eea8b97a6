"""Causal attention with an optional window, a persistent prefix and borders between documents.

A position never sees a later one, exactly: with a window it sees the `window` tokens that end with itself.
What a token sees does not depend on how it is computed: block by block, at once, or token by token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forge.config import ModelConfig
from forge.models.layers import Projection, RMSNorm, rotate
from forge.models.memory import MagGate, MemoryCache, NeuralMemory


class LayerCache:
    """Keys, values and memory of the tokens that one layer has seen."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.memory: MemoryCache | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, H, T, D) and return all keys and values so far."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values


@dataclass(frozen=True)
class Span:
    """Where the tokens of one forward pass stand: the same for every layer."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    """Which keys, prefix first, each query sees; none is everything up to itself. In blocks it is
    (B or 1, N, W, P + 2 W), else (B or 1, 1, T, P + S)."""
    block: int | None
    """Tokens in a block W, where attention is computed block by block."""
    documents: Tensor | None
    """(B, S) number of each token's document, rising, of all tokens so far; none is one document."""


def look(
    config: ModelConfig, tables: tuple[Tensor, Tensor], start: int, length: int, documents: Tensor | None
) -> Span:
    """What the tokens `start ... start + length - 1` see."""
    end = start + length
    cos, sin = (_at(table, start, end, documents) for table in tables)
    window = config.window if config.window is not None and config.window < end else None
    if window is None and documents is None and not config.persistent_tokens:
        # A single query may see every key there is; torch's causal flag would align it with the first.
        return Span(cos, sin, None, None, None)
    if window is not None and start == 0 and length > 2 * window:
        return Span(cos, sin, _blocks(config, window, length, documents, cos.device), window, documents)
    position = torch.arange(end, device=cos.device)
    distance = position[start:, None] - position  # (query, key)
    sees = (distance >= 0) & (distance < (window or end))
    if documents is not None:
        sees = sees & (documents[:, start:, None] == documents[:, None, :])
    mask = F.pad(sees, (config.persistent_tokens, 0), value=True)
    return Span(cos, sin, mask.view(-1, 1, *mask.shape[-2:]), None, documents)


def _at(table: Tensor, start: int, end: int, documents: Tensor | None) -> Tensor:
    """Rows of a rotary table (T, 1, D); with documents (B, T, 1, D), as each counts its own positions."""
    if documents is None:
        return table[start:end]
    position = torch.arange(end, device=table.device).expand_as(documents)
    begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    first = torch.where(begins, position, 0).cummax(-1).values
    return table[(position - first)[:, start:]]


def _blocks(
    config: ModelConfig, window: int, length: int, documents: Tensor | None, device: torch.device
) -> Tensor:
    """Each block of queries sees the prefix, the block before it and itself."""
    count = -(-length // window)
    query, key = torch.arange(window, device=device)[:, None], torch.arange(2 * window, device=device)
    sees = (key > query) & (key <= query + window)  # (W, 2 W)
    inside = (torch.arange(count, device=device)[:, None] > 0) | (key >= window)  # (N, 2 W)
    sees = (sees & inside[:, None, :]).unsqueeze(0)  # (1, N, W, 2 W)
    if documents is not None:
        own = F.pad(documents, (0, count * window - length), value=-1).view(len(documents), count, window)
        sees = sees & (own.unsqueeze(-1) == _with_previous(own, 2).unsqueeze(-2))
    return F.pad(sees, (config.persistent_tokens, 0), value=True)


def _with_previous(blocks: Tensor, axis: int) -> Tensor:
    """Put the block before each block (B, N, ...) in front of it, along `axis`; zeros before the first."""
    before = torch.cat((torch.zeros_like(blocks[:, :1]), blocks[:, :-1]), dim=1)
    return torch.cat((before, blocks), axis)


class PersistentTokens(nn.Module):
    """Learned inputs that stand before every text and have no position."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, width))

    def draw(self, generator: torch.Generator) -> None:
        """As large as the normed inputs beside them."""
        self.weight.copy_(torch.randn(self.weight.shape, generator=generator, device=generator.device))


class Attention(nn.Module):
    """Causal multi-head self-attention, in the Titans-MAG block beside a neural memory.

    The two meet before the output projection, at the gate; SubLN stands between the gate and the projection.
    """

    peak_logit: Tensor
    """The largest logit of each head (H) since `watch`."""

    def __init__(self, config: ModelConfig, with_memory: bool = False) -> None:
        super().__init__()
        width, self.n_heads = config.d_model, config.n_heads
        self.q = Projection(width, width)
        self.k = Projection(width, width)
        self.v = Projection(width, width)
        self.o = Projection(width, width)
        head_size = width // config.n_heads
        self.q_norm = RMSNorm(head_size, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_size, config.norm_eps) if config.qk_norm else nn.Identity()
        self.attn_sub_norm = RMSNorm(width, config.norm_eps) if config.sub_norm else nn.Identity()
        count = config.persistent_tokens
        self.persistent = PersistentTokens(count, width) if count else None
        self.memory = NeuralMemory(config) if with_memory else None
        self.gate = MagGate(width, config.norm_eps) if with_memory else None
        self.watching = False
        self.register_buffer("peak_logit", torch.full((self.n_heads,), -torch.inf), persistent=False)

    def watch(self, on: bool) -> None:
        """Start to keep the largest logit of each head, forgetting earlier ones, or stop."""
        self.watching = on
        if on:
            self.peak_logit.fill_(-torch.inf)

    def forward(self, x: Tensor, span: Span, cache: LayerCache | None) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        y = self._attend(x, span, cache)
        if self.memory is not None and self.gate is not None:
            found, after = self.memory(x, span.documents, None if cache is None else cache.memory)
            if cache is not None:
                cache.memory = after
            y = self.gate(y, found)
        out: Tensor = self.o(self.attn_sub_norm(y))
        return out

    def _attend(self, x: Tensor, span: Span, cache: LayerCache | None) -> Tensor:
        """What the heads found, side by side: (B, T, d_model)."""
        batch, length, width = x.shape
        heads = (batch, length, self.n_heads, width // self.n_heads)
        prepared = self.q.prepare(x)
        q = rotate(self.q_norm(self.q.project(prepared).view(heads)), span.cos, span.sin).transpose(1, 2)
        k = rotate(self.k_norm(self.k.project(prepared).view(heads)), span.cos, span.sin).transpose(1, 2)
        v = self.v.project(prepared).view(heads).transpose(1, 2)  # (B, H, T, D)
        if cache is not None:
            k, v = cache.append(k, v)
        prefix = self._prefix(q.dtype)
        if span.block is not None:
            y = self._in_blocks(q, k, v, prefix, span)
        else:
            k, v = _prepend(prefix, k, v)
            self._note(q, k, span.mask)
            # A single query may see every key there is; torch's causal flag would align it with the first.
            causal = span.mask is None and length > 1
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=span.mask, is_causal=causal)
        return y.transpose(1, 2).reshape(batch, length, width)

    def _prefix(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the persistent tokens, (1, H, P, D)."""
        if self.persistent is None:
            return None
        prepared = self.k.prepare(self.persistent.weight)
        heads = (1, len(prepared), self.n_heads, -1)
        k = self.k_norm(self.k.project(prepared).view(heads)).transpose(1, 2)
        return k.to(dtype), self.v.project(prepared).view(heads).transpose(1, 2).to(dtype)

    def _in_blocks(
        self, q: Tensor, k: Tensor, v: Tensor, prefix: tuple[Tensor, Tensor] | None, span: Span
    ) -> Tensor:
        """Sliding-window attention as blocks of W queries over 2 W keys: the work grows with T, not T * T."""
        if span.block is None or span.mask is None:
            raise ValueError("attention in blocks needs a window")
        batch, n_heads, length, size = q.shape
        count, mask = span.mask.shape[1], span.mask
        missing = count * span.block - length
        q, k, v = (
            F.pad(x, (0, 0, 0, missing)).view(batch, n_heads, count, span.block, size).transpose(1, 2)
            for x in (q, k, v)
        )  # (B, N, H, W, D)
        k, v = (_with_previous(x, 3).flatten(0, 1) for x in (k, v))  # (B * N, H, 2 W, D)
        q = q.flatten(0, 1)
        mask = mask.expand(batch, *mask.shape[1:]).flatten(0, 1).unsqueeze(1)  # (B * N, 1, W, P + 2 W)
        k, v = _prepend(prefix, k, v)
        self._note(q, k, mask)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = y.unflatten(0, (batch, count)).transpose(1, 2).flatten(2, 3)
        return out[:, :, :length]

    def _note(self, q: Tensor, k: Tensor, mask: Tensor | None) -> None:
        """Remember the largest logit of a pair that attention sees, for QK-clip."""
        if not self.watching:
            return
        with torch.no_grad():
            logits = (q @ k.mT) * q.shape[-1] ** -0.5  # (B, H, T, S)
            if mask is None:
                mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).tril()
            peak = logits.masked_fill(~mask, -torch.inf).amax((0, 2, 3)).to(self.peak_logit.dtype)
            self.peak_logit.copy_(torch.maximum(self.peak_logit, peak))


def _prepend(prefix: tuple[Tensor, Tensor] | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if prefix is None:
        return k, v
    before = [x.expand(len(k), -1, -1, -1) for x in prefix]
    return torch.cat((before[0], k), dim=2), torch.cat((before[1], v), dim=2)
