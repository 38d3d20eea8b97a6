"""The neural memory as arithmetic: surprise, momentum and decay of weights that are a state.

For each token, with the memory M and its momentum S (Titans, arXiv 2501.00663, eq. 10-14 and 16-18):

    S_t = eta_t S_{t-1} - theta_t grad |M_c(k_t) - v_t|^2
    M_t = (1 - alpha_t) M_{t-1} + S_t
    y_t = M_t(q_t)

M_c are the weights at the start of the token's chunk, so all gradients of a chunk are known at once and are
of rank one, a_i (x) g_i. Both recursions are then linear: M_t is a sum over the chunk with the weights
(scan of decay) @ (scan of momentum), which reads like attention and never makes M_t itself. Only the states
at chunk starts are made one after another.

A token's result never depends on a later token, nor on anything before its document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12


@dataclass
class MemoryState:
    """What a memory has learned from one text so far; a list has one entry for each layer of the network."""

    weights: list[Tensor]
    """M_t, each (B, H, in, out)."""
    momentum: list[Tensor]
    """S_t, in the same shapes."""
    anchor: list[Tensor]
    """M_c: the weights at the start of the current chunk."""
    filled: int = 0
    """Tokens of the current chunk that are in the state."""


@dataclass(frozen=True)
class Tokens:
    """What each token brings to the memory: vectors (B, H, T, D), rates (B, H, T)."""

    q: Tensor
    """Where to read."""
    k: Tensor
    """Where to write."""
    v: Tensor
    """What to write."""
    log_keep: Tensor
    """log(1 - alpha): what stays of the memory."""
    log_eta: Tensor
    """log(eta): what stays of the momentum."""
    theta: Tensor
    """Step size."""

    def part(self, start: int, end: int) -> Tokens:
        """The tokens from `start` to `end`."""
        return Tokens(*(getattr(self, f.name)[:, :, start:end] for f in fields(self)))

    def split(self, chunk: int) -> Tokens:
        """The same as whole chunks: vectors (B, H, N, C, D), rates (B, H, N, C)."""
        return Tokens(*(getattr(self, f.name).unflatten(2, (-1, chunk)) for f in fields(self)))


def empty_state(initial: Sequence[Tensor], batch: int) -> MemoryState:
    """The state before the first token of a text, from the learned first weights (H, in, out)."""
    weights = [w.unsqueeze(0).expand(batch, *w.shape) for w in initial]
    return MemoryState(weights, [torch.zeros_like(w) for w in weights], weights)


def remember(
    tokens: Tokens,
    initial: Sequence[Tensor],
    chunk: int,
    max_surprise: float,
    documents: Tensor | None = None,
) -> tuple[Tensor, MemoryState]:
    """Write k -> v and read q, token by token; the memory starts empty.

    Args:
        tokens: T of them.
        initial: the learned first weights of each layer, (H, in, out).
        chunk: tokens whose gradient is taken at the same weights.
        max_surprise: largest norm of one token's gradient.
        documents: (B, T) number of each token's document, rising; none is one document.

    Returns:
        What was read, (B, H, T, D), and the state after the last token.
    """
    batch, length = tokens.q.shape[0], tokens.q.shape[2]
    if documents is not None:
        documents = torch.cat((documents[:, :1], documents), -1)  # (B, 1 + T): that of the token before, too
    state, outputs, whole = empty_state(initial, batch), [], length - length % chunk
    for start, end, size in ((0, whole, chunk), (whole, length, length - whole)):
        if start < end:
            own = None if documents is None else documents[:, start : end + 1]
            y, state = _chunks(tokens.part(start, end), initial, state, size, max_surprise, own)
            outputs.append(y)
    state.filled = length % chunk
    if state.filled == 0:
        state.anchor = state.weights
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)), state


def step(
    token: Tokens,
    initial: Sequence[Tensor],
    state: MemoryState,
    chunk: int,
    max_surprise: float,
    starts: Tensor | None = None,
) -> tuple[Tensor, MemoryState]:
    """One more token; `starts` (B) says where it begins a document. What was read is (B, H, 1, D)."""
    if starts is not None:
        state = _restarted(state, initial, starts)
    inputs, grads = surprise(token.k, token.v, state.anchor, max_surprise)
    eta, keep, theta = (r.unsqueeze(-1) for r in (token.log_eta.exp(), token.log_keep.exp(), token.theta))
    momentum = [eta * s - (theta * a).mT @ g for s, a, g in zip(state.momentum, inputs, grads, strict=True)]
    weights = [keep * w + s for w, s in zip(state.weights, momentum, strict=True)]
    filled = (state.filled + 1) % chunk
    return network(token.q, weights), MemoryState(
        weights, momentum, state.anchor if filled else weights, filled
    )


def _restarted(state: MemoryState, initial: Sequence[Tensor], starts: Tensor) -> MemoryState:
    """The state with the texts that begin anew emptied; where in the chunk they stand does not change."""
    new = starts.view(-1, 1, 1, 1)
    weights = [torch.where(new, w0, w) for w0, w in zip(initial, state.weights, strict=True)]
    anchor = [torch.where(new, w0, w) for w0, w in zip(initial, state.anchor, strict=True)]
    return MemoryState(weights, [s.masked_fill(new, 0.0) for s in state.momentum], anchor, state.filled)


def network(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The memory as a function: (..., T, D) -> (..., T, D), SiLU between two layers."""
    for weight in weights[:-1]:
        x = F.silu(x @ weight)
    return x @ weights[-1]


def surprise(
    k: Tensor, v: Tensor, weights: Sequence[Tensor], limit: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradient of |M(k) - v|^2 for every layer and token, as the factors of `input (x) gradient`.

    The gradient of a layer, a matrix of rank one, has a norm of at most `limit`.
    """
    inputs, before = [k], []
    for weight in weights[:-1]:
        before.append(inputs[-1] @ weight)
        inputs.append(F.silu(before[-1]))
    grads = [2.0 * (inputs[-1] @ weights[-1] - v)]
    for weight, z in zip(reversed(weights[1:]), reversed(before), strict=True):
        open_ = torch.sigmoid(z)
        slope = open_ * (1.0 + z * (1.0 - open_))
        grads.insert(0, (grads[0] @ weight.mT) * slope)
    return inputs, [_limited(a, g, limit) for a, g in zip(inputs, grads, strict=True)]


def _limited(a: Tensor, g: Tensor, limit: float) -> Tensor:
    size = a.square().sum(-1, keepdim=True) * g.square().sum(-1, keepdim=True)  # squared norm of a (x) g
    return g * (limit * torch.rsqrt(size + TINY)).clamp(max=1.0)


@dataclass(frozen=True)
class _Scan:
    """What the rates make of every chunk, without its tokens; N chunks of C tokens."""

    carried: Tensor
    """Share of the weights at the chunk's start that is left at each token, (B, H, N, C)."""
    pushed: Tensor
    """Share of the momentum at the chunk's start that has gone into the weights, (B, H, N, C)."""
    written: Tensor
    """Share of token i's gradient in the weights at token t, (B, H, N, C, C), theta included."""
    restarted: Tensor | None
    """Share of the first weights at each token of a document that began inside the chunk, (B, H, N, C)."""
    momentum_left: Tensor
    """Share of the momentum at the chunk's start that is left at its end, (B, H, N)."""
    momentum_written: Tensor
    """Share of each gradient in the momentum at the chunk's end, (B, H, N, C)."""
    fresh: Tensor | None
    """Where a token's document began inside the chunk, (B, 1, N, C)."""


def _scan(tokens: Tokens, documents: Tensor | None) -> _Scan:
    """Tokens as whole chunks; documents (B, N, 1 + C), the first that of the token before the chunk."""
    length = tokens.theta.shape[-1]
    seen = torch.ones(length, length, dtype=torch.bool, device=tokens.theta.device).tril()
    # Not `cumsum`: on CUDA it adds up in any order, and a resumed run would not be the same run.
    keep, eta = ((r.unsqueeze(-2) * seen).sum(-1) for r in (tokens.log_keep, tokens.log_eta))  # (B, H, N, C)
    carried, momentum = keep.exp(), eta.exp()
    fresh = restarted = None
    if documents is not None:
        own = documents[..., 1:]
        seen = (seen & (own.unsqueeze(-1) == own.unsqueeze(-2))).unsqueeze(1)  # (B, 1, N, C, C)
        fresh = (own != documents[..., :1]).unsqueeze(1)
        carried, momentum = carried.masked_fill(fresh, 0.0), momentum.masked_fill(fresh, 0.0)
    decay, push = _products(keep, seen), _products(eta, seen)
    if documents is not None:
        first = (documents[..., 1:] != documents[..., :-1]).unsqueeze(1)
        restarted = (decay @ (tokens.log_keep.exp() * first).unsqueeze(-1)).squeeze(-1)
    return _Scan(
        carried=carried,
        pushed=(decay @ momentum.unsqueeze(-1)).squeeze(-1),
        written=(decay @ push) * tokens.theta.unsqueeze(-2),
        restarted=restarted,
        momentum_left=momentum[..., -1],
        momentum_written=push[..., -1, :] * tokens.theta,
        fresh=fresh,
    )


def _products(logs: Tensor, seen: Tensor) -> Tensor:
    """exp(logs_t - logs_i) where token t sees token i, else 0: products of the rates between the two."""
    difference = logs.unsqueeze(-1) - logs.unsqueeze(-2)  # at most 0 where it counts: no overflow
    return difference.masked_fill(~seen, -torch.inf).exp()


def _chunks(
    tokens: Tokens,
    initial: Sequence[Tensor],
    state: MemoryState,
    chunk: int,
    max_surprise: float,
    documents: Tensor | None,
) -> tuple[Tensor, MemoryState]:
    """`remember` over whole chunks, from a state at a chunk's start; documents are (B, 1 + T)."""
    tokens = tokens.split(chunk)
    scan = _scan(tokens, None if documents is None else documents.unfold(-1, chunk + 1, chunk))
    first = [w.unsqueeze(1) for w in initial]  # (H, 1, in, out), for all chunks at once
    unlearned = None if scan.fresh is None else surprise(tokens.k, tokens.v, first, max_surprise)
    starts, inputs, grads = [], [], []
    for n in range(tokens.k.shape[2]):
        a, g = surprise(tokens.k[:, :, n], tokens.v[:, :, n], state.weights, max_surprise)
        if scan.fresh is not None and unlearned is not None:
            new = scan.fresh[:, :, n].unsqueeze(-1)
            a, g = (
                [torch.where(new, y[:, :, n], x) for x, y in zip(known, blank, strict=True)]
                for known, blank in zip((a, g), unlearned, strict=True)
            )
        starts.append(state)
        inputs.append(a)
        grads.append(g)
        state = _next_start(scan, n, a, g, initial, state)
    y = tokens.q
    for layer, w0 in enumerate(first):
        known = ([s.weights for s in starts], [s.momentum for s in starts], inputs, grads)
        y = _read(
            F.silu(y) if layer else y, scan, w0, *(torch.stack([x[layer] for x in k], 2) for k in known)
        )
    anchor = starts[-1].weights
    if scan.fresh is not None:
        ended = scan.fresh[:, :, -1, -1, None, None]
        anchor = [torch.where(ended, w0, w) for w0, w in zip(initial, anchor, strict=True)]
    return y.flatten(2, 3), MemoryState(state.weights, state.momentum, anchor)


def _next_start(
    scan: _Scan, n: int, a: list[Tensor], g: list[Tensor], initial: Sequence[Tensor], state: MemoryState
) -> MemoryState:
    """The state at the end of chunk n, from the state at its start and the chunk's gradients."""

    def at_end(share: Tensor) -> Tensor:
        return share[:, :, n, -1, None, None]  # (B, H, 1, 1)

    written, moved = scan.written[:, :, n, -1].unsqueeze(-1), scan.momentum_written[:, :, n].unsqueeze(-1)
    left = scan.momentum_left[:, :, n, None, None]
    weights, momentum = [], []
    for x, grad, w, s, w0 in zip(a, g, state.weights, state.momentum, initial, strict=True):
        change, shift = (x.mT @ torch.cat((grad * written, grad * moved), -1)).chunk(2, -1)
        kept = at_end(scan.carried) * w + at_end(scan.pushed) * s - change
        weights.append(kept if scan.restarted is None else kept + at_end(scan.restarted) * w0)
        momentum.append(left * s - shift)
    return MemoryState(weights, momentum, weights)


def _read(
    x: Tensor, scan: _Scan, first: Tensor, w: Tensor, s: Tensor, inputs: Tensor, grads: Tensor
) -> Tensor:
    """x_t @ M_t of one layer for all tokens (B, H, N, C, in), without making M_t."""
    y = scan.carried.unsqueeze(-1) * (x @ w) + scan.pushed.unsqueeze(-1) * (x @ s)
    if scan.restarted is not None:
        y = y + scan.restarted.unsqueeze(-1) * (x @ first)
    return y - ((x @ inputs.mT) * scan.written) @ grads
