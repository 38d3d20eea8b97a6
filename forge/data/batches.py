"""Batches and windows of token shards.

A training batch is a pure function of (data, seed, step, weights): no state to save, and a resumed run reads
the batches that the uninterrupted one would have read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from forge.config import Share
from forge.data.documents import Split
from forge.data.shards import TokenData
from forge.errors import CorpusError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_EPOCHS = 4.0
"""Up to here repeated text is nearly as good as new (Muennighoff et al. 2023, arXiv 2305.16264)."""


def train_batch(
    data: TokenData, seed: int, step: int, batch_size: int, seq_len: int, shares: Sequence[Share] = ()
) -> NDArray[np.int64]:
    """Random windows of the train split, (batch_size, seq_len + 1): inputs `[:, :-1]`, targets `[:, 1:]`.

    Each window's corpus is drawn by the weights of `shares` (none: the whole split is one), and in a corpus
    every start is equally likely, with replacement, so windows cross the ends of documents. A sampler that
    changes the weights as it goes keeps them in its state; there is no other. Give each phase a seed of its
    own, else step s of one sees the batch of step s of the other.

    Raises:
        CorpusError: the train split, or that of a corpus, is shorter than one window.
    """
    spans = [data.span("train", share.corpus) for share in shares] or [(0, len(data.train))]
    chosen = np.zeros(batch_size, dtype=np.int64)
    if len(spans) > 1:
        chosen = batch_corpora([share.weight for share in shares], seed, step, batch_size)
    offsets = np.array([first for first, _ in spans], dtype=np.int64)
    # One draw of starts for each length: the same words, so a mix of one is that corpus alone.
    starts = np.stack([batch_starts(last - first, seed, step, batch_size, seq_len) for first, last in spans])
    starts = starts[chosen, np.arange(batch_size)] + offsets[chosen]
    windows = data.train[starts[:, None] + np.arange(seq_len + 1)]  # (B, T + 1)
    return np.asarray(windows, dtype=np.int64)


def batch_corpora(weights: Sequence[float], seed: int, step: int, batch_size: int) -> NDArray[np.int64]:
    """Which corpus each window of a step comes from, by weight, (batch_size,)."""
    words = np.random.Philox(key=seed, counter=(1 << 128) + (step << 64)).random_raw(batch_size)
    bounds = np.cumsum(np.asarray(weights, dtype=np.float64))
    # 53 bits are what a float holds exactly; the last bound is then above every draw.
    draws = (words >> np.uint64(11)).astype(np.float64) / 2.0**53
    return np.searchsorted(bounds / bounds[-1], draws, side="right").astype(np.int64)


def batch_starts(n_tokens: int, seed: int, step: int, batch_size: int, seq_len: int) -> NDArray[np.int64]:
    """Where each window of a step begins, (batch_size,).

    Raw Philox words, since NumPy promises those for ever, and may change how its generators turn them into
    ranges. The step is the counter's second word: each step has 2**64 draws of its own.
    """
    choices = n_tokens - seq_len
    if choices < 1:
        raise CorpusError(
            f"the train split has {n_tokens} tokens, fewer than a sequence of {seq_len} and its next token. "
            "Give more text or a smaller data.seq_len."
        )
    words = np.random.Philox(key=seed, counter=step << 64).random_raw(batch_size)
    # The remainder favours small starts by choices / 2**64: nothing.
    return (words % np.uint64(choices)).astype(np.int64)


def eval_windows(
    data: TokenData,
    split: Split,
    seq_len: int,
    max_tokens: int | None = None,
    *,
    batch_size: int = 16,
    corpus: str | None = None,
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Disjoint windows over a split: (N, seq_len + 1) tokens, N <= batch_size, and the bytes of the targets.

    Targets are `[:, 1:]`. Windows overlap by the one token that is the last target of one and the first input
    of the next, so each token but the first of the split, an end of document, is a target exactly once. What
    is left after the last whole window comes last, as one shorter window. Then

        bits per byte = total nats / ln 2 / total bytes

    Convention: the end of a document is predicted, and costs nats, but counts 0 bytes. So over a whole split
    the bytes are those of its documents, and a model that never ends a text pays for it.

    `max_tokens` scores at most so many tokens, though at least one window: whole windows spread evenly over
    the split, the same ones every time. `corpus` is one of a mix, to be measured alone.
    """
    tokens = data.tokens(split, corpus)
    targets = len(tokens) - 1
    whole, rest = divmod(targets, seq_len)
    everything = max_tokens is None or max_tokens >= targets
    count = whole if max_tokens is None else min(whole, max(1, max_tokens // seq_len))
    # i * whole // count: strictly increasing, as count <= whole, and spread over the whole split.
    starts = np.arange(count, dtype=np.int64) * whole // max(count, 1) * seq_len
    for first in range(0, count, batch_size):
        chunk = starts[first : first + batch_size, None] + np.arange(seq_len + 1)
        yield _with_bytes(data, tokens[chunk])
    if rest and (everything or not whole):
        yield _with_bytes(data, tokens[None, whole * seq_len :])


def _with_bytes(data: TokenData, windows: NDArray[np.uint16]) -> tuple[NDArray[np.int64], int]:
    chunk = np.asarray(windows, dtype=np.int64)
    return chunk, int(data.token_lengths[chunk[:, 1:]].sum())


def epochs(
    steps: int, batch_size: int, seq_len: int, data: TokenData, shares: Sequence[Share] = ()
) -> dict[str, float]:
    """How often, on average, `steps` steps see each token that a corpus has to train on, by corpus."""
    tokens = steps * batch_size * seq_len
    if not shares:
        return {data.info.spec: tokens / len(data.train)}
    whole = sum(share.weight for share in shares)
    return {s.corpus: tokens * s.weight / whole / len(data.tokens("train", s.corpus)) for s in shares}


def epochs_warning(
    steps: int, batch_size: int, seq_len: int, data: TokenData, shares: Sequence[Share] = ()
) -> str | None:
    """A sentence for a person where a corpus is read more often than helps; None where none is."""
    times = epochs(steps, batch_size, seq_len, data, shares)
    most = max(times, key=times.__getitem__)
    if times[most] <= MAX_EPOCHS:
        return None
    count = len(data.tokens("train", most if shares else None))
    return (
        f"{steps} steps read the {count:,} training tokens of {most} {times[most]:.1f} times; "
        f"above {MAX_EPOCHS:g} a model rather learns them by heart. Use more text or fewer steps."
    )
