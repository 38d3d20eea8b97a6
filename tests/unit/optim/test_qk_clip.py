"""QK-clip: gamma = tau / S, a square root of it to each side, on weights; and what it must not be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from forge.config import MemoryConfig, ModelConfig, TrainingConfig
from forge.models.attention import Attention
from forge.models.decoder import Block, Decoder
from forge.optim.qk_clip import QKClip
from forge.optim.trainer import Trainer

CPU = torch.device("cpu")
PICO = ModelConfig(vocab_size=260, d_model=32, n_layers=2, n_heads=4, d_ff=48, max_seq_len=40)
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"qk_norm": False},
    "normed": {"qk_norm": True},
    "window": {"qk_norm": False, "window": 5, "persistent_tokens": 3, "document_end": 7},
    "window-normed": {"window": 5, "persistent_tokens": 3, "memory": MemoryConfig(n_heads=2, chunk=4)},
}


def pico(shape: str) -> Decoder:
    """Logits of different size in every head."""
    model = Decoder(PICO.model_copy(update=SHAPES[shape])).initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, attention in enumerate(layers(model)):
            for head in range(4):
                attention.q.weight[8 * head : 8 * head + 8] *= 10.0 * (head + 1 + number)
            for norm in (attention.q_norm, attention.k_norm):
                for gain in norm.parameters():
                    gain.mul_(2.0 + number)
    return model


def layers(model: Decoder) -> list[Attention]:
    return [block.attn for block in model.blocks if isinstance(block, Block)]


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(260, (3, 30), generator=torch.Generator().manual_seed(seed))


def watched(model: Decoder, tau: float, text: Tensor) -> tuple[QKClip, list[Tensor]]:
    clip = QKClip(model, tau)
    clip.watch(True)
    model(text)
    clip.watch(False)
    return clip, [attention.peak_logit.clone() for attention in layers(model)]


def largest_logits(model: Decoder, text: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Of each head: the largest score of a pair that is seen, from what attention is called with."""
    found = []

    def attention(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool = False
    ) -> Tensor:
        scores = torch.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5
        if attn_mask is None:
            assert is_causal
            attn_mask = torch.arange(k.shape[2]) <= torch.arange(q.shape[2])[:, None]
        scores = torch.where(attn_mask, scores, -torch.inf)
        found.append(torch.stack([scores[:, head].max() for head in range(scores.shape[1])]))
        return torch.softmax(scores, -1) @ v

    with monkeypatch.context() as patched:
        patched.setattr("torch.nn.functional.scaled_dot_product_attention", attention)
        model(text)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_it_sees_the_largest_logit_of_each_head(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = pico(shape), tokens()
    _, seen = watched(model, 1.0, text)
    for ours, theirs in zip(seen, largest_logits(model, text, monkeypatch), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", ["plain", "window"])
def test_each_head_above_tau_comes_down_to_tau_and_the_others_stay(shape: str) -> None:
    """One layer: the input of the next changes with the first."""
    model, text = pico(shape), tokens()
    del model.blocks[1:]
    (before,) = watched(model, 1.0, text)[1]
    tau = float(before.sort().values[1:3].mean())  # two heads above, two below
    q, k = (part.weight.detach().clone() for part in (layers(model)[0].q, layers(model)[0].k))
    clip, _ = watched(model, tau, text)
    clip.clip()
    (after,) = watched(model, tau, text)[1]
    torch.testing.assert_close(after, before.clamp(max=tau))
    for head in range(4):
        rows, root = slice(8 * head, 8 * head + 8), min(1.0, tau / float(before[head])) ** 0.5
        torch.testing.assert_close(layers(model)[0].q.weight[rows], q[rows] * root)
        torch.testing.assert_close(layers(model)[0].k.weight[rows], k[rows] * root)
    assert (before > tau).sum() == 2


@pytest.mark.parametrize("shape", ["normed", "window-normed"])
def test_with_qk_norm_the_gains_come_down_and_the_matrices_would_not_help(shape: str) -> None:
    model, text = pico(shape), tokens()
    del model.blocks[1:]
    (attention,) = layers(model)
    before = watched(model, 1.0, text)[1][0].max()
    with torch.no_grad():
        for part in (attention.q, attention.k):
            part.weight *= 0.5
    torch.testing.assert_close(watched(model, 1.0, text)[1][0].max(), before, rtol=1e-2, atol=0)
    clip, (peaks,) = watched(model, 2.0, text)
    assert peaks.max() > 2.0
    matrices = attention.q.weight.detach().clone()
    clip.clip()
    torch.testing.assert_close(watched(model, 2.0, text)[1][0].max(), torch.tensor(2.0), rtol=1e-4, atol=0)
    assert torch.equal(attention.q.weight, matrices)


def test_no_logit_of_normed_queries_exceeds_what_the_docstring_says() -> None:
    model = pico("normed")
    with torch.no_grad():
        for part in (layers(model)[0].q, layers(model)[0].k):
            part.weight *= 1e3
    (attention, _), (peaks, _) = layers(model), watched(model, 1.0, tokens())[1]
    gains = [next(iter(norm.parameters())) for norm in (attention.q_norm, attention.k_norm)]
    assert peaks.max() <= 8**0.5 * (gains[0] * gains[1]).abs().max() * 1.001


def test_below_tau_nothing_moves_and_looking_changes_no_logit() -> None:
    model, text = pico("window"), tokens()
    want = model(text)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    clip = QKClip(model, 1e6)
    clip.watch(True)
    assert torch.equal(model(text), want)
    clip.clip()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_gamma_squared_would_clip_too_much() -> None:
    """The control: the specification's gamma = (tau / S)^2 misses tau."""
    model, text = pico("plain"), tokens()
    del model.blocks[1:]
    peaks = watched(model, 1.0, text)[1][0]
    head, tau = int(peaks.argmax()), float(peaks.max()) / 2
    clip, _ = watched(model, tau, text)
    clip.clip()
    clip.clip()  # twice the power
    assert watched(model, 1.0, text)[1][0][head] == pytest.approx(tau / 2, rel=1e-4)


@pytest.mark.parametrize("micro", [1, 4])
def test_the_trainer_clips_after_the_update_by_the_whole_batch(micro: int) -> None:
    text = torch.cat((tokens(1), tokens(2)[:1]))
    tau = float(torch.stack(watched(pico("plain"), 1.0, text[:, :-1])[1]).median())
    training = TrainingConfig(steps=20, batch_size=4, micro_batch=micro, warmup_steps=2, qk_clip=tau)
    trained, free = (
        Trainer(pico("plain"), t, CPU) for t in (training, training.model_copy(update={"qk_clip": None}))
    )
    want = torch.stack(watched(pico("plain"), 1.0, text[:, :-1])[1])
    result = trained.train_step(0, text[:, :-1], text[:, 1:])
    unclipped = free.train_step(0, text[:, :-1], text[:, 1:])
    assert result.peak_logit == pytest.approx(float(want.max()), rel=1e-4)
    assert unclipped.peak_logit is None
    assert result.loss == unclipped.loss
    for attention, other, peaks in zip(layers(trained.model), layers(free.model), want, strict=True):
        root = (tau / peaks.clamp(min=tau)).sqrt().repeat_interleave(8).unsqueeze(1)
        assert root.min() < 0.9
        torch.testing.assert_close(attention.k.weight, other.k.weight * root, rtol=1e-4, atol=1e-7)
    assert not any(attention.watching for attention in layers(trained.model))


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no attention"):
        QKClip(torch.nn.Linear(2, 2), 100.0)
