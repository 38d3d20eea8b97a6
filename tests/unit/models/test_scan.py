"""The memory's chunked scan against plain loops over tokens, written from the paper's equations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from forge.models.scan import Tokens, network, remember, step

B, H, T, D, INNER = 2, 2, 13, 4, 6
NO_LIMIT = 1e9


def sizes(depth: int) -> list[int]:
    return [D] + [INNER] * (depth - 1) + [D]


def weights(depth: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(sizes(depth), sizes(depth)[1:], strict=False)
    return [0.5 * torch.randn(H, a, b, generator=generator).to(dtype) for a, b in pairs]


def some_tokens(seed: int = 0, batch: int = B, length: int = T, dtype: torch.dtype = torch.float32) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, H, length, D, generator=generator).to(dtype) for _ in range(3))
    keep, eta, theta = (torch.rand(batch, H, length, generator=generator).to(dtype) for _ in range(3))
    return Tokens(q, k / k.norm(dim=-1, keepdim=True), v, (0.5 + 0.5 * keep).log(), eta.log(), 0.4 * theta)


def forward(x: Tensor, layers: list[Tensor]) -> Tensor:
    """The memory as a function of one vector."""
    for layer in layers[:-1]:
        z = x @ layer
        x = z * torch.sigmoid(z)
    return x @ layers[-1]


def oracle(
    tokens: Tokens,
    initial: list[Tensor],
    chunk: int,
    limit: float = NO_LIMIT,
    documents: Tensor | None = None,
) -> Tensor:
    """Equations 10-14 of Titans for one token, one head and one text at a time; gradients by autograd."""
    out = torch.zeros_like(tokens.q)
    for b in range(out.shape[0]):
        for h in range(out.shape[1]):
            m = [w[h].clone() for w in initial]
            s = [torch.zeros_like(w) for w in m]
            at_start = m
            for t in range(out.shape[2]):
                if t % chunk == 0:
                    at_start = m
                if documents is not None and t and documents[b, t] != documents[b, t - 1]:
                    m = [w[h].clone() for w in initial]
                    s = [torch.zeros_like(w) for w in m]
                    at_start = m
                with torch.enable_grad():
                    leaf = [w.detach().requires_grad_() for w in at_start]
                    error = forward(tokens.k[b, h, t], leaf) - tokens.v[b, h, t]
                    grads = torch.autograd.grad(error.square().sum(), leaf)
                grads = tuple(g * min(1.0, limit / max(float(g.norm()), 1e-9)) for g in grads)
                eta, theta = tokens.log_eta[b, h, t].exp(), tokens.theta[b, h, t]
                alpha = 1 - tokens.log_keep[b, h, t].exp()
                s = [eta * x - theta * g for x, g in zip(s, grads, strict=True)]
                m = [(1 - alpha) * w + x for w, x in zip(m, s, strict=True)]
                out[b, h, t] = forward(tokens.q[b, h, t], m)
    return out


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("chunk", [1, 5, 13, 64])
def test_it_is_the_loop_over_tokens(depth: int, chunk: int) -> None:
    """Chunk 1 is the true recursion; C is the loop whose gradients are taken at the chunk's first weights."""
    tokens, initial = some_tokens(), weights(depth)
    close(remember(tokens, initial, chunk, NO_LIMIT)[0], oracle(tokens, initial, chunk))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_larger_chunk_is_another_result(depth: int) -> None:
    """What the two oracles are for: the gap between them is real."""
    tokens, initial = some_tokens(), weights(depth)
    gap = (oracle(tokens, initial, 1) - oracle(tokens, initial, 4)).abs().max()
    assert gap > 0.01


@pytest.mark.parametrize("depth", [1, 2])
def test_a_tokens_surprise_is_limited(depth: int) -> None:
    tokens, initial = some_tokens(), weights(depth)
    got = remember(tokens, initial, 4, 0.7)[0]
    close(got, oracle(tokens, initial, 4, limit=0.7))
    assert not torch.allclose(got, oracle(tokens, initial, 4), atol=1e-2)


DOCUMENTS = torch.tensor([[0] * 3 + [1] * 4 + [2] * 6, [0] * 8 + [1] * 1 + [2] * 4])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_each_document_starts_from_the_first_weights(depth: int, chunk: int) -> None:
    tokens, initial = some_tokens(), weights(depth)
    got = remember(tokens, initial, chunk, NO_LIMIT, DOCUMENTS)[0]
    close(got, oracle(tokens, initial, chunk, documents=DOCUMENTS))
    assert not torch.allclose(got, oracle(tokens, initial, chunk), atol=1e-2)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("documents", [None, DOCUMENTS])
@pytest.mark.parametrize("first", [1, 4, 6, 10])
def test_token_by_token_goes_on_from_any_place(depth: int, documents: Tensor | None, first: int) -> None:
    tokens, initial = some_tokens(), weights(depth)
    want, last = remember(tokens, initial, 4, 3.0, documents)
    own = None if documents is None else documents[:, :first]
    y, state = remember(tokens.part(0, first), initial, 4, 3.0, own)
    outputs = [y]
    for t in range(first, T):
        starts = None if documents is None else documents[:, t] != documents[:, t - 1]
        y, state = step(tokens.part(t, t + 1), initial, state, 4, 3.0, starts)
        outputs.append(y)
    close(torch.cat(outputs, 2), want)
    assert state.filled == last.filled == T % 4
    for kind in ("weights", "momentum", "anchor"):
        for a, b in zip(getattr(state, kind), getattr(last, kind), strict=True):
            close(a, b)


def test_a_text_alone_is_the_text_in_a_batch_and_the_order_does_not_matter() -> None:
    tokens, initial = some_tokens(batch=4), weights(2)
    together = remember(tokens, initial, 4, 3.0)[0]
    order = torch.tensor([2, 0, 3, 1])
    shuffled = Tokens(*(getattr(tokens, n)[order] for n in ("q", "k", "v", "log_keep", "log_eta", "theta")))
    assert torch.equal(remember(shuffled, initial, 4, 3.0)[0], together[order])


def leaks(run: Callable[[Tokens], Tensor]) -> bool:
    """Whether changing the last token moves what an earlier one reads."""
    tokens = some_tokens()
    changed = some_tokens()
    for vector in (changed.k, changed.v, changed.q, changed.theta, changed.log_keep, changed.log_eta):
        vector[:, :, 10] *= 0.5
    before, after = run(tokens), run(changed)
    assert not torch.equal(before[:, :, 10], after[:, :, 10])
    return not torch.equal(before[:, :, :10], after[:, :, :10])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_no_token_reads_what_is_written_later(depth: int, chunk: int) -> None:
    assert not leaks(lambda tokens: remember(tokens, weights(depth), chunk, 3.0)[0])


def test_a_memory_that_reads_after_the_whole_chunk_is_caught() -> None:
    """The control: every token of a text reads the weights that the whole text left behind."""

    def at_the_end(tokens: Tokens) -> Tensor:
        return network(tokens.q, remember(tokens, weights(1), 4, 3.0)[1].weights)

    assert leaks(at_the_end)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("documents", [False, True])
def test_gradients_are_right(depth: int, documents: bool) -> None:
    tokens = some_tokens(batch=1, length=5, dtype=torch.float64)
    numbers = torch.tensor([[0, 0, 0, 1, 1]]) if documents else None
    names = ("q", "k", "v", "log_keep", "log_eta", "theta")
    leaves = [getattr(tokens, n).requires_grad_() for n in names]
    first = [w.requires_grad_() for w in weights(depth, dtype=torch.float64)]

    def run(*values: Tensor) -> Tensor:
        return remember(Tokens(*values[:6]), values[6:], 2, 1.5, numbers)[0]

    assert torch.autograd.gradcheck(run, (*leaves, *first), fast_mode=True)


def test_a_text_that_repeats_itself_does_not_make_it_diverge() -> None:
    """The same key, again and again, in full strength: the sum of a chunk's steps is far too long."""
    tokens = some_tokens(batch=1, length=512)
    q, k, v = (x[:, :, :1].expand_as(x) for x in (tokens.q, tokens.k, tokens.v))
    ones = torch.ones(1, H, 512)
    one = Tokens(q, k, v, -1e-3 * ones, -0.1 * ones, ones)
    read = remember(one, weights(2), 64, 10.0)[0]
    assert torch.isfinite(read).all()
    unlimited = remember(one, weights(2), 64, NO_LIMIT)[0]
    assert not torch.isfinite(unlimited).all() or unlimited.abs().max() > 1e3 * read.abs().max()
