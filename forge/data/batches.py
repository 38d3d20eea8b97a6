"""Batches and windows of token shards.

A training batch is a pure function of (data, seed, step): no state to save, and a resumed run reads the
batches that the uninterrupted one would have read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from forge.data.documents import Split
from forge.data.shards import TokenData
from forge.errors import CorpusError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_EPOCHS = 4.0
"""Up to here repeated text is nearly as good as new (Muennighoff et al. 2023, arXiv 2305.16264)."""


def train_batch(data: TokenData, seed: int, step: int, batch_size: int, seq_len: int) -> NDArray[np.int64]:
    """Random windows of the train split, (batch_size, seq_len + 1): inputs `[:, :-1]`, targets `[:, 1:]`.

    Every start is equally likely, drawn with replacement, so windows cross the ends of documents. Give each
    phase a seed of its own, else step s of one sees the batch of step s of the other.

    Raises:
        CorpusError: the train split is shorter than one window.
    """
    starts = batch_starts(len(data.train), seed, step, batch_size, seq_len)
    windows = data.train[starts[:, None] + np.arange(seq_len + 1)]  # (B, T + 1)
    return np.asarray(windows, dtype=np.int64)


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
    data: TokenData, split: Split, seq_len: int, max_tokens: int | None = None, *, batch_size: int = 16
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Disjoint windows over a split: (N, seq_len + 1) tokens, N <= batch_size, and the bytes of the targets.

    Targets are `[:, 1:]`. Windows overlap by the one token that is the last target of one and the first input
    of the next, so each token but the first of the split, an end of document, is a target exactly once. What
    is left after the last whole window comes last, as one shorter window. Then

        bits per byte = total nats / ln 2 / total bytes

    Convention: the end of a document is predicted, and costs nats, but counts 0 bytes. So over a whole split
    the bytes are those of its documents, and a model that never ends a text pays for it.

    `max_tokens` scores at most so many tokens, though at least one window: whole windows spread evenly over
    the split, the same ones every time.
    """
    tokens = data.tokens(split)
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


def epochs(steps: int, batch_size: int, seq_len: int, data: TokenData) -> float:
    """How often, on average, `steps` steps see each token of the train split."""
    return steps * batch_size * seq_len / len(data.train)


def epochs_warning(steps: int, batch_size: int, seq_len: int, data: TokenData) -> str | None:
    """A sentence for a person where the text is read more often than helps; None where it is not."""
    times = epochs(steps, batch_size, seq_len, data)
    if times <= MAX_EPOCHS:
        return None
    return (
        f"{steps} steps read the {len(data.train):,} training tokens of {data.info.spec} {times:.1f} times; "
        f"above {MAX_EPOCHS:g} a model rather learns them by heart. Use more text or fewer steps."
    )
