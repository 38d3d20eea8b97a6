"""Batches and windows: pure functions that read each token as often as they say."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.data import Split, TokenData, epochs, epochs_warning, eval_windows, load_tokenizer, train_batch
from forge.data.batches import batch_starts
from forge.errors import CorpusError

_seeds = st.integers(0, 2**32 - 1)
_steps = st.integers(0, 10**7)

# What a session that was started by an earlier version reads at this step; it must never change.
PINNED = [2539621, 643537, 3289431, 1041003]


def numbered(data: TokenData, tokens: int) -> TokenData:
    """The same corpus with shards that count up, each token one byte long, so a token is its own place."""
    shard = np.arange(tokens, dtype=np.uint16)
    lengths = np.ones(max(tokens, 1), dtype=np.int64)
    return replace(data, train=shard, dev=shard, test=shard, token_lengths=lengths)


@settings(deadline=None)
@given(_seeds, st.lists(_steps, min_size=1, max_size=8, unique=True), st.integers(1, 9), st.integers(1, 40))
def test_a_batch_depends_on_its_arguments_alone(
    small: TokenData, seed: int, steps: list[int], batch_size: int, seq_len: int
) -> None:
    there = [train_batch(small, seed, step, batch_size, seq_len) for step in steps]
    back = [train_batch(small, seed, step, batch_size, seq_len) for step in reversed(steps)][::-1]
    for step, one, other in zip(steps, there, back, strict=True):
        assert one.shape == (batch_size, seq_len + 1)
        assert one.dtype == np.int64
        assert type(one) is np.ndarray
        np.testing.assert_array_equal(one, other)
        starts = batch_starts(len(small.train), seed, step, batch_size, seq_len)
        for row, start in zip(one, starts, strict=True):
            np.testing.assert_array_equal(row, small.train[start : start + seq_len + 1])


@settings(deadline=None)
@given(_seeds, _steps, st.integers(1, 60))
def test_a_larger_batch_begins_with_the_smaller(seed: int, step: int, size: int) -> None:
    # So micro-batches may be cut anywhere.
    whole = batch_starts(10_000, seed, step, 64, 16)
    np.testing.assert_array_equal(batch_starts(10_000, seed, step, size, 16), whole[:size])


def test_another_process_reads_the_same_batch_and_always_will() -> None:
    call = "batch_starts(3_492_982, 1, 1000, 4, 128).tolist()"
    code = f"from forge.data.batches import batch_starts; print({call})"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert batch_starts(3_492_982, 1, 1000, 4, 128).tolist() == PINNED
    assert there.strip() == str(PINNED)


def test_the_global_generator_is_left_alone(small: TokenData) -> None:
    before = np.random.get_state(legacy=False)  # noqa: NPY002  looked at, not drawn from
    train_batch(small, 0, 0, 4, 16)
    assert str(np.random.get_state(legacy=False)) == str(before)  # noqa: NPY002


def test_seeds_and_steps_give_different_batches(small: TokenData) -> None:
    seen = {train_batch(small, seed, step, 8, 16).tobytes() for seed in range(20) for step in range(20)}
    assert len(seen) == 400


def test_every_start_is_about_equally_likely() -> None:
    starts = np.concatenate([batch_starts(26, 3, step, 100, 16) for step in range(200)])
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10  # The last start leaves just room for the target of the last input.
    assert counts.min() > 1800
    assert counts.max() < 2200


def test_the_shortest_text_that_gives_a_batch() -> None:
    assert batch_starts(17, 0, 0, 3, 16).tolist() == [0, 0, 0]
    with pytest.raises(CorpusError, match="16 tokens"):
        batch_starts(16, 0, 0, 3, 16)


@settings(deadline=None)
@given(st.integers(2, 600), st.integers(1, 50), st.integers(1, 7))
def test_each_token_but_the_first_is_scored_once(
    small: TokenData, tokens: int, seq_len: int, size: int
) -> None:
    data = numbered(small, tokens)
    chunks = list(eval_windows(data, "dev", seq_len, batch_size=size))
    assert all(chunk.shape[0] <= size for chunk, _ in chunks)
    assert all(chunk.shape[1] == seq_len + 1 for chunk, _ in chunks[:-1])
    targets = np.concatenate([chunk[:, 1:].ravel() for chunk, _ in chunks])
    assert targets.tolist() == list(range(1, tokens))
    for chunk, n_bytes in chunks:
        assert n_bytes == chunk[:, 1:].size
        np.testing.assert_array_equal(np.diff(chunk, axis=1), 1)


@settings(deadline=None)
@given(st.integers(2, 600), st.integers(1, 50), st.integers(1, 700))
def test_a_limit_takes_whole_windows_spread_evenly(
    small: TokenData, tokens: int, seq_len: int, limit: int
) -> None:
    data = numbered(small, tokens)
    chunks = list(eval_windows(data, "dev", seq_len, limit))
    targets = np.concatenate([chunk[:, 1:].ravel() for chunk, _ in chunks])
    everything = limit >= tokens - 1
    assert 0 < len(targets) <= max(limit, seq_len)
    assert (len(targets) == tokens - 1) or not everything
    assert len(targets) == len(set(targets.tolist()))
    starts = np.concatenate([chunk[:, 0] for chunk, _ in chunks])
    gaps = np.diff(starts)
    if len(gaps) and not everything:
        assert gaps.max() - gaps.min() <= seq_len
    again = list(eval_windows(data, "dev", seq_len, limit))
    assert [n for _, n in again] == [n for _, n in chunks]


def test_a_limit_looks_at_the_end_of_the_split_too(small: TokenData) -> None:
    data = numbered(small, 10_001)
    starts = np.concatenate([chunk[:, 0] for chunk, _ in eval_windows(data, "test", 10, 100)])
    assert starts.tolist() == list(range(0, 10_000, 1000))


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize("seq_len", [7, 16, 100_000])
def test_bytes_of_a_whole_split_are_those_of_its_documents(
    small: TokenData, split: Split, seq_len: int
) -> None:
    counted = sum(n_bytes for _, n_bytes in eval_windows(small, split, seq_len))
    documents = small.info.held_out[split]
    assert len(documents) > 3
    assert counted == sum(document.bytes for document in documents)


def test_bytes_of_each_chunk_are_those_of_its_targets(small: TokenData) -> None:
    tokenizer = load_tokenizer(small.tokenizer)
    for chunk, n_bytes in eval_windows(small, "dev", 16, 200, batch_size=3):
        assert n_bytes == sum(len(tokenizer.token_bytes[i]) for i in chunk[:, 1:].ravel())


def test_bits_per_byte_of_a_known_model(small: TokenData) -> None:
    # A model that gives every token 1/V costs log2 V bits a token, ends of documents included.
    nats = n_bytes = 0.0
    for chunk, bytes_here in eval_windows(small, "test", 16):
        nats += chunk[:, 1:].size * math.log(small.info.vocab_size)
        n_bytes += bytes_here
    split = small.info.splits["test"]
    assert nats / math.log(2) / n_bytes == pytest.approx(
        (split.tokens - 1) * math.log2(small.info.vocab_size) / split.bytes
    )


def test_epochs_and_their_warning(small: TokenData) -> None:
    data = numbered(small, 1000)
    assert list(epochs(10, 5, 20, data).values()) == [1.0]
    assert epochs_warning(40, 5, 20, data) is None
    warning = epochs_warning(41, 5, 20, data)
    assert warning is not None
    assert "41 steps read the 1,000 training tokens" in warning
    assert "4.1 times" in warning
