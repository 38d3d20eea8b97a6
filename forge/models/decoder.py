"""Causal decoder: pre-norm, RoPE, optional QK-norm, SwiGLU, SubLN, tied embeddings.

A position never sees a later one, exactly: with a window it sees the `window` tokens that end with itself.
SubLN stands before the two output projections (Ma et al. 2024, BitNet b1.58, arXiv 2402.17764).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forge.config import ModelConfig
from forge.models.layers import Projection, RMSNorm, TokenEmbedding, rotary_table, rotate

Role = Literal["hidden", "embedding", "norm", "other"]

INIT_STD = 0.02


class LayerCache:
    """Keys and values of the tokens that one layer has seen."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, H, T, D) and return all keys and values so far."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat((self.keys, keys), dim=2)
            values = torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values


@dataclass
class KVCache:
    """Keys and values of every layer, and how many tokens they cover."""

    layers: list[LayerCache]
    length: int = field(default=0)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig) -> None:
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

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        batch, length, width = x.shape
        heads = (batch, length, self.n_heads, width // self.n_heads)
        x = self.q.prepare(x)
        q = rotate(self.q_norm(self.q.project(x).view(heads)), cos, sin).transpose(1, 2)  # (B, H, T, D)
        k = rotate(self.k_norm(self.k.project(x).view(heads)), cos, sin).transpose(1, 2)
        v = self.v.project(x).view(heads).transpose(1, 2)
        if cache is not None:
            k, v = cache.append(k, v)
        # A single query may see every key there is; torch's causal flag would align it with the first.
        causal = mask is None and length > 1
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        y = y.transpose(1, 2).reshape(batch, length, width)
        out: Tensor = self.o(self.attn_sub_norm(y))
        return out


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Projection(config.d_model, config.d_ff)
        self.up = Projection(config.d_model, config.d_ff)
        self.down = Projection(config.d_ff, config.d_model)
        self.ffn_sub_norm = RMSNorm(config.d_ff, config.norm_eps) if config.sub_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        x = self.gate.prepare(x)
        hidden = F.silu(self.gate.project(x)) * self.up.project(x)  # (B, T, d_ff)
        out: Tensor = self.down(self.ffn_sub_norm(hidden))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each behind its norm and beside the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attn = Attention(config)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        x = x + self.attn(self.attn_norm(x), cos, sin, mask, cache)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


class Decoder(nn.Module):
    """The language model. Weights are zero until `initialise` or a loaded file fills them."""

    cos: Tensor
    sin: Tensor
    visible: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        cos, sin = rotary_table(config.max_seq_len, config.d_model // config.n_heads, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.register_buffer("visible", _band(config), persistent=False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> Decoder:
        """Draw the weights from `generator` alone: normal, std 0.02, residual outputs / sqrt(2 layers).

        The same seed gives the same weights on every device, if the generator lives on the CPU.
        """
        residual = INIT_STD / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
                continue
            std = residual if name.endswith(("attn.o.weight", "ffn.down.weight")) else INIT_STD
            drawn = torch.randn(parameter.shape, generator=generator, device=generator.device)
            parameter.copy_(drawn * std)
        return self

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T).

        With a cache, which is empty or else followed by one token at a time, `tokens` continue what it
        holds. Raises ValueError where the sequence outgrows `max_seq_len`.
        """
        start, length = (0 if cache is None else cache.length), tokens.shape[1]
        end = start + length
        if end > self.config.max_seq_len:
            raise ValueError(f"{end} tokens; this model's positions end at {self.config.max_seq_len}")
        if start and length > 1:
            raise ValueError("a filled cache takes one token at a time")
        x = self._embed(tokens)
        cos, sin = self.cos[start:end], self.sin[start:end]
        mask = None if self.visible is None else self.visible[start:end, :end]
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, None if cache is None else cache.layers[i])
        if cache is not None:
            cache.length = end
        return F.linear(self.norm(x), self.embedding.weight)

    def loss(
        self, inputs: Tensor, targets: Tensor, reduction: Literal["mean", "sum", "none"] = "mean"
    ) -> Tensor:
        """Cross entropy in nats per token, in fp32; `none` gives (B, T)."""
        logits: Tensor = self(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction)
        return loss.view_as(targets) if reduction == "none" else loss

    def new_cache(self) -> KVCache:
        """An empty cache for generation."""
        return KVCache([LayerCache() for _ in self.blocks])

    def _embed(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embedding(tokens)  # (B, T, d_model)
        device = tokens.device.type
        if torch.is_autocast_enabled(device):
            # The residual stream then moves half the bytes; norms and the loss still compute in fp32.
            x = x.to(torch.get_autocast_dtype(device))
        return x


def body_linears(model: nn.Module) -> dict[str, Projection]:
    """The linear layers that become ternary, by name: q, k, v, o, gate, up and down of every block."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Projection)}


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """What each parameter is, by name: routes it to Muon or AdamW, and to weight decay."""
    roles: dict[str, Role] = {}
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            roles[f"{prefix}.{name}" if prefix else name] = _role(module)
    return roles


def _role(module: nn.Module) -> Role:
    if isinstance(module, nn.Linear):
        return "hidden"
    if isinstance(module, nn.Embedding):
        return "embedding"
    return "norm" if isinstance(module, RMSNorm) else "other"


def _band(config: ModelConfig) -> Tensor | None:
    """Which key (column) each query (row) may see; None where the plain causal mask does."""
    if config.window is None or config.window >= config.max_seq_len:
        return None
    position = torch.arange(config.max_seq_len)
    distance = position.unsqueeze(1) - position  # (query, key)
    return (distance >= 0) & (distance < config.window)
