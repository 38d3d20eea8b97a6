"""Bits per byte: equal to the sum by hand, and without a trace on the model or on any generator."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forge.config import DataConfig, ModelConfig
from forge.data import TokenData, eval_windows, prepare
from forge.evals import HeldOut, gap_recovered
from forge.models.decoder import Decoder

SHAPE = ModelConfig(vocab_size=270, d_model=16, n_layers=1, n_heads=2, d_ff=16, max_seq_len=16)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """A corpus of ten short texts, with letters of one and of two bytes."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(10):
        text = " ".join(random.Random(number).choices(("über", "forge", "loss", "naïve"), k=60))
        (folder / f"{number}.txt").write_text(text, "utf-8")
    data = DataConfig(corpus=f"text:{folder}/*.txt", seq_len=8, dev_fraction=0.2, test_fraction=0.2)
    return prepare(data, SHAPE.vocab_size, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def held_out(shards: TokenData) -> HeldOut:
    """Windows of eight tokens on the CPU."""
    return HeldOut(shards, 8, torch.device("cpu"))


def test_a_model_that_knows_nothing_pays_for_every_token(held_out: HeldOut) -> None:
    uniform = Decoder(SHAPE)  # all weights zero: every logit is zero
    tokens = len(held_out.shards.dev) - 1
    n_bytes = held_out.shards.info.splits["dev"].bytes
    expected = tokens * math.log2(SHAPE.vocab_size) / n_bytes
    assert held_out.bits_per_byte(uniform, "dev") == pytest.approx(expected, rel=1e-6)


def test_it_is_the_sum_over_single_windows(held_out: HeldOut) -> None:
    model = Decoder(SHAPE).initialise(torch.Generator().manual_seed(0))
    tokens = torch.from_numpy(held_out.shards.test.astype("int64"))
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 8):
            window = tokens[start : start + 9].unsqueeze(0)
            logits = model(window[:, :-1]).log_softmax(-1)
            nats -= float(logits.gather(-1, window[:, 1:, None]).sum())
    n_bytes = held_out.shards.info.splits["test"].bytes
    assert held_out.bits_per_byte(model, "test") == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)


def test_a_part_is_measured_on_the_same_part_every_time(held_out: HeldOut) -> None:
    model = Decoder(SHAPE).initialise(torch.Generator().manual_seed(0))
    part = held_out.bits_per_byte(model, "dev", 24)
    assert part == held_out.bits_per_byte(model, "dev", 24)
    assert part != held_out.bits_per_byte(model, "dev")


def test_a_look_leaves_no_trace(held_out: HeldOut, tmp_path: Path) -> None:
    model = Decoder(SHAPE).initialise(torch.Generator().manual_seed(0)).train()
    model.loss(torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)).backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state = torch.get_rng_state()
    held_out.bits_per_byte(model, "dev")
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert torch.is_grad_enabled()
    kept = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))


def test_whoever_waits_is_heard_before_each_batch(held_out: HeldOut) -> None:
    heard: list[int] = []
    model = Decoder(SHAPE).initialise(torch.Generator().manual_seed(0))
    polled = replace(held_out, poll=lambda: heard.append(1))
    assert polled.bits_per_byte(model, "dev") == held_out.bits_per_byte(model, "dev")
    assert len(heard) == len(list(eval_windows(held_out.shards, "dev", 8))) > 2


def test_a_broken_model_is_seen(held_out: HeldOut) -> None:
    model = Decoder(SHAPE)
    with torch.no_grad():
        model.embedding.weight[3] = torch.nan
    assert math.isnan(held_out.bits_per_byte(model, "dev"))


@given(st.floats(0.1, 3), st.floats(0.01, 3), st.floats(-0.5, 1.5))
def test_the_gap_is_a_share(full: float, gap: float, share: float) -> None:
    recovered = gap_recovered(full, full + gap, full + gap * (1 - share))
    assert recovered == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("post", [1.0, 0.9])
def test_no_gap_has_no_share(post: float) -> None:
    assert gap_recovered(1.0, post, 0.95) is None
