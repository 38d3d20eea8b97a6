"""Causal decoder: pre-norm, RoPE, optional QK-norm, SwiGLU, SubLN, tied embeddings; as the configuration
says, with a neural memory beside the attention and a recursion over the whole stack.

A position never sees a later one, exactly. SubLN stands before the two output projections (Ma et al. 2024,
BitNet b1.58, arXiv 2402.17764).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from forge.config import ModelConfig
from forge.models.attention import Attention, LayerCache, PersistentTokens, Span, look
from forge.models.layers import Projection, RMSNorm, TokenEmbedding, rotary_table
from forge.models.memory import CausalConvolution, FirstWeights, RateProjection
from forge.models.recursion import (
    HaltingHead,
    Net,
    applications,
    correctness_loss,
    exits,
    ponder_loss,
    start,
    supervision_step,
)

Role = Literal["hidden", "embedding", "norm", "persistent", "convolution", "memory", "halting", "other"]

RunBlock = Callable[[nn.Module, Tensor, Span, LayerCache | None], Tensor]
Judge = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

INIT_STD = 0.02
IGNORED = -100
"""Target that no loss counts, as in torch."""
OWN_START = (PersistentTokens, CausalConvolution, RateProjection, FirstWeights, HaltingHead)
"""Parts with a `draw`: their first weights are not the usual ones."""


@dataclass
class KVCache:
    """What every layer keeps of a text, once for each time the stack is applied, and how much text it is."""

    layers: list[LayerCache]
    length: int = 0
    documents: Tensor | None = None
    """(B, length) number of each token's document."""
    ended: Tensor | None = None
    """(B, 1) documents that have ended."""


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

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.d_model, config.norm_eps)
        with_memory = config.memory is not None and index % config.memory.every == 0
        self.attn = Attention(config, with_memory)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, span: Span, cache: LayerCache | None) -> Tensor:
        """(B, T, d_model) -> (B, T, d_model)."""
        x = x + self.attn(self.attn_norm(x), span, cache)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


class Decoder(nn.Module):
    """The language model. Weights are zero until `initialise` or a loaded file fills them."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        recursion = config.recursion
        # The states that go round are normed, so what is put in anew has to be as large as they are.
        self.input_norm = RMSNorm(config.d_model, config.norm_eps) if recursion else None
        self.halting = HaltingHead(recursion, config.d_model) if recursion and recursion.halting else None
        self.recompute = False
        """Whether the backward pass computes each block again instead of keeping what it made."""
        self._run: RunBlock = _run_block
        self._judge: Judge = _judge
        cos, sin = rotary_table(config.max_seq_len, config.d_model // config.n_heads, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> Decoder:
        """Draw the weights from `generator` alone: normal, std 0.02, residual outputs / sqrt(2 layers).

        The same seed gives the same weights on every device, if the generator lives on the CPU. Parts that
        start otherwise draw after the rest, each by a `draw` of its own.
        """
        residual = INIT_STD / math.sqrt(2 * self.config.n_layers)
        roles = parameter_roles(self)
        for name, parameter in self.named_parameters():
            if roles[name] == "norm":
                parameter.fill_(1.0)
            if roles[name] not in ("hidden", "embedding"):
                continue
            std = residual if name.endswith(("attn.o.weight", "ffn.down.weight")) else INIT_STD
            drawn = torch.randn(parameter.shape, generator=generator, device=generator.device)
            parameter.copy_(drawn * std)
        for module in self.modules():
            if isinstance(module, OWN_START):
                module.draw(generator)
        return self

    def forward(self, tokens: Tensor, cache: KVCache | None = None, steps: int | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T).

        `steps` ends the recursion after so many supervision steps; none takes them all. With a cache, which
        is empty or else followed by one token at a time, `tokens` continue what it holds. Raises ValueError
        where the sequence outgrows `max_seq_len`.
        """
        net, x = self._ready(tokens, cache)
        recursion = self.config.recursion
        if recursion is None:
            return self._logits(net(x))
        carry = start(x)
        for _ in range(recursion.supervision if steps is None else min(steps, recursion.supervision)):
            carry = supervision_step(net, x, carry.detached(), recursion)
        return self._logits(carry.y)

    def halted(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) of each token at the step where it stops, and that step (B, T), from 0.

        The steps end with the last token that stops. Raises ValueError where nothing was learned about it.
        """
        recursion = self.config.recursion
        if recursion is None or self.halting is None:
            raise ValueError("this model has no halting; set model.recursion.halting before it is trained")
        net, x = self._ready(tokens, None)
        carry, answers, stops = start(x), [], []
        while True:
            carry = supervision_step(net, x, carry.detached(), recursion)
            answers.append(carry.y)
            stops.append(self.halting.logit(carry.y))
            unknown = [torch.full_like(stops[0], -torch.inf)] * (recursion.supervision - len(stops))
            at = exits([*stops, *unknown], recursion)  # (B, T)
            if int(at.max()) < len(stops):
                break
        chosen = torch.stack(answers).gather(0, at[None, :, :, None].expand(1, *x.shape))[0]
        return self._logits(chosen), at

    def loss(
        self,
        inputs: Tensor,
        targets: Tensor,
        reduction: Literal["mean", "sum", "none"] = "mean",
        steps: int | None = None,
    ) -> Tensor:
        """Cross entropy of the last answer in nats per token, in fp32; `none` gives (B, T).

        `steps` as for `forward`.
        """
        logits: Tensor = self(inputs, steps=steps)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction)
        return loss.view_as(targets) if reduction == "none" else loss

    def training_loss(self, inputs: Tensor, targets: Tensor, *, eager: bool = False) -> Tensor:
        """What training minimises: `loss`, or with a recursion all its supervision steps and the halting.

        The mean is over the targets that count; -100 does not. `eager` leaves out what was compiled.
        """
        recursion = self.config.recursion
        if not self.in_parts:
            return self.loss(inputs, targets)
        counts = targets != IGNORED
        net, x = self._ready(inputs, None, _run_block if eager else self._run)
        judge = _judge if eager else self._judge
        if recursion is None:
            return (judge(net(x), self.embedding.weight, targets)[0] * counts).sum() / counts.sum()
        carry, losses, stops, right = start(x), [], [], []
        for _ in range(recursion.supervision):
            carry = supervision_step(net, x, carry.detached(), recursion)
            loss, correct = judge(carry.y, self.embedding.weight, targets)
            losses.append(loss)
            right.append(correct)
            if self.halting is not None:
                stops.append(self.halting.logit(carry.y))
        if recursion.halting == "ponder":
            each = ponder_loss(losses, stops, recursion)
        elif recursion.halting == "correctness":
            each = correctness_loss(losses, stops, right, recursion)
        else:
            each = torch.stack(losses).mean(0)
        return (each * counts).sum() / counts.sum()

    @property
    def in_parts(self) -> bool:
        """Whether `training_loss` is too large for one graph, and is compiled by `compile_parts`."""
        return self.config.memory is not None or self.config.recursion is not None

    def compile_parts(self, compile_: Callable[[Any], Any]) -> None:
        """Let `training_loss` run its blocks and losses through `compile_`, each one graph for all of them.

        As a whole it would be thousands of operations: the stack is applied many times, over many chunks.
        """
        self._run, self._judge = compile_(_run_block), compile_(_judge)

    def new_cache(self) -> KVCache:
        """An empty cache for generation."""
        return KVCache([LayerCache() for _ in range(applications(self.config.recursion) * len(self.blocks))])

    def _ready(
        self, tokens: Tensor, cache: KVCache | None, run: RunBlock | None = None
    ) -> tuple[Net, Tensor]:
        """The stack as a function, and its input (B, T, d_model)."""
        run = run or _run_block
        begin, length = (0 if cache is None else cache.length), tokens.shape[1]
        if begin + length > self.config.max_seq_len:
            raise ValueError(
                f"{begin + length} tokens; this model's positions end at {self.config.max_seq_len}"
            )
        if begin and length > 1:
            raise ValueError("a filled cache takes one token at a time")
        documents = self._documents(tokens, cache)
        span = look(self.config, (self.cos, self.sin), begin, length, documents)
        layers = None if cache is None else iter(cache.layers)
        if cache is not None:
            cache.length = begin + length

        again = self.recompute and layers is None and torch.is_grad_enabled()

        def net(x: Tensor) -> Tensor:
            for block in self.blocks:
                if again:
                    x = checkpoint(run, block, x, span, None, use_reentrant=False, preserve_rng_state=False)
                else:
                    x = run(block, x, span, None if layers is None else next(layers))
            normed: Tensor = self.norm(x)
            return normed

        x = self._embed(tokens)
        return net, x if self.input_norm is None else self.input_norm(x)

    def _documents(self, tokens: Tensor, cache: KVCache | None) -> Tensor | None:
        """Number of the document of every token so far (B, S): how many ended before it."""
        if self.config.document_end is None:
            return None
        ends = (tokens == self.config.document_end).long()
        count = ends.cumsum(-1)
        before = None if cache is None else cache.ended
        if before is not None:
            count = count + before
        documents = count - ends
        if cache is not None:
            cache.ended = count[:, -1:]
            known = cache.documents
            documents = documents if known is None else torch.cat((known, documents), dim=1)
            cache.documents = documents
        return documents

    def _logits(self, y: Tensor) -> Tensor:
        return F.linear(y, self.embedding.weight)

    def _embed(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embedding(tokens)  # (B, T, d_model)
        device = tokens.device.type
        if torch.is_autocast_enabled(device):
            # The residual stream then moves half the bytes; norms and the loss still compute in fp32.
            x = x.to(torch.get_autocast_dtype(device))
        return x


def _run_block(block: nn.Module, x: Tensor, span: Span, cache: LayerCache | None) -> Tensor:
    out: Tensor = block(x, span, cache)
    return out


def _judge(y: Tensor, table: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of every token (B, T) in fp32, and whether the likeliest token is the target."""
    logits = F.linear(y, table).float()
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return loss.view_as(targets), logits.argmax(-1) == targets


def body_linears(model: nn.Module) -> dict[str, Projection]:
    """The linear layers that become ternary, by name: q, k, v, o, gate, up and down of every block, and
    q, k and v of its memory."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Projection)}


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """What each parameter is, by name: routes it to Muon or AdamW, and to weight decay."""
    roles: dict[str, Role] = {}
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            roles[f"{prefix}.{name}" if prefix else name] = _role(module)
    return roles


ROLES: Mapping[type[nn.Module], Role] = {
    Projection: "hidden",
    TokenEmbedding: "embedding",
    RMSNorm: "norm",
    PersistentTokens: "persistent",
    CausalConvolution: "convolution",
    RateProjection: "memory",
    FirstWeights: "memory",
    HaltingHead: "halting",
}


def _role(module: nn.Module) -> Role:
    return next((role for kind, role in ROLES.items() if isinstance(module, kind)), "other")
