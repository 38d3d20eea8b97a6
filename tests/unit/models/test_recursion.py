"""Recursion and halting against plain loops; each loss has a gradient with respect to the chance to stop."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forge.config import ModelConfig, RecursionConfig, TrainingConfig
from forge.models.decoder import Decoder
from forge.models.recursion import (
    Carry,
    applications,
    correctness_loss,
    exits,
    ponder_loss,
    prior_chances,
    start,
    stop_chances,
    supervision_step,
)
from forge.optim.trainer import Trainer

PICO = ModelConfig(vocab_size=260, d_model=16, n_layers=1, n_heads=2, d_ff=32, max_seq_len=16)


def settings(**changes: Any) -> RecursionConfig:
    return RecursionConfig(**{"cycles": 3, "latent_steps": 2, "supervision": 4, **changes})


def pico(seed: int = 0, **changes: Any) -> Decoder:
    config = PICO.model_copy(update={"recursion": settings(**changes)})
    return Decoder(config).initialise(torch.Generator().manual_seed(seed))


def text(seed: int, *shape: int) -> Tensor:
    return torch.randint(260, shape, generator=torch.Generator().manual_seed(seed))


def net_of(weight: Tensor, calls: list[bool] | None = None) -> Any:
    def net(x: Tensor) -> Tensor:
        if calls is not None:
            calls.append(torch.is_grad_enabled())
        return torch.tanh(x @ weight)

    return net


def test_a_supervision_step_is_the_papers_loop() -> None:
    w = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    y, z = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(3):
        z = torch.tanh((z + y + x) @ w)
        z = torch.tanh((z + y + x) @ w)
        y = torch.tanh((y + z) @ w)
    got = supervision_step(net_of(w), x, start(x), settings())
    torch.testing.assert_close(got.y, y)
    torch.testing.assert_close(got.z, z)


def test_only_the_last_cycle_has_a_gradient_and_it_reaches_all_its_steps() -> None:
    w = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    calls: list[bool] = []
    got = supervision_step(net_of(w, calls), x, start(x), settings())
    assert calls == [False] * 6 + [True] * 3
    (ours,) = torch.autograd.grad(got.y.square().sum(), w)
    with torch.no_grad():
        before = supervision_step(net_of(w), x, start(x), settings(cycles=2))
    last = supervision_step(net_of(w), x, before, settings(cycles=1))
    (want,) = torch.autograd.grad(last.y.square().sum(), w)
    torch.testing.assert_close(ours, want)
    one_step = net_of(w)(before.y + last.z.detach())
    (less,) = torch.autograd.grad(one_step.square().sum(), w)
    assert (ours - less).norm() > 0.1 * ours.norm()  # more than the one-step gradient


def test_a_carry_hands_on_values_and_no_gradient() -> None:
    carry = Carry(torch.ones(1, requires_grad=True) * 2, torch.ones(1, requires_grad=True) * 3)
    assert not carry.detached().y.requires_grad
    assert not carry.detached().z.requires_grad
    assert carry.detached().z == carry.z


def test_the_stack_is_applied_as_often_as_is_said() -> None:
    model, calls = pico(), []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    model(text(0, 1, 5))
    assert len(calls) == applications(model.config.recursion) == 4 * 3 * 3
    assert applications(None) == 1


# --- halting


def chances_oracle(logits: Tensor) -> Tensor:
    """p_n of one token: a loop over steps."""
    going, out = 1.0, []
    for n, logit in enumerate(logits.tolist()):
        stop = 1.0 if n == len(logits) - 1 else 1 / (1 + math.exp(-logit))
        out.append(going * stop)
        going *= 1 - stop
    return torch.tensor(out, dtype=logits.dtype)


def halting_logits(seed: int = 0, steps: int = 4) -> Tensor:
    return 2 * torch.randn(steps, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_chances_are_the_loop_and_sum_to_one() -> None:
    logits = halting_logits()
    chances = stop_chances(list(logits))
    torch.testing.assert_close(chances.sum(0), torch.ones(2, 3, dtype=torch.float64))
    for place in [(b, t) for b in range(2) for t in range(3)]:
        torch.testing.assert_close(chances[:, *place], chances_oracle(logits[:, *place]))
    assert sum(prior_chances(0.3, 5)) == pytest.approx(1)
    torch.testing.assert_close(
        torch.tensor(prior_chances(0.3, 5)), chances_oracle(torch.full((5,), math.log(0.3 / 0.7)))
    )


def test_the_ponder_loss_is_its_formula() -> None:
    logits, recursion = halting_logits(), settings(halting="ponder", halting_weight=0.3, halting_prior=0.25)
    losses = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = ponder_loss(list(losses), list(logits), recursion)
    for place in [(b, t) for b in range(2) for t in range(3)]:
        p, prior = chances_oracle(logits[:, *place]), [0.25, 0.1875, 0.140625, 0.421875]
        want = sum(
            float(p[n]) * (float(losses[n, *place]) + 0.3 * math.log(float(p[n]) / prior[n]))
            for n in range(4)
        )
        assert float(got[place]) == pytest.approx(want)


def test_the_correctness_loss_is_its_formula() -> None:
    logits, recursion = halting_logits(), settings(halting="correctness", halting_weight=0.5)
    losses = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    right = losses < 0.5
    got = correctness_loss(list(losses), list(logits), list(right), recursion)
    chance = 1 / (1 + torch.exp(-logits))
    entropy = -torch.where(right, chance.log(), (1 - chance).log())
    torch.testing.assert_close(got, (losses + 0.5 * entropy).mean(0))


@pytest.mark.parametrize("kind", ["ponder", "correctness"])
def test_gradients_of_the_halting_are_right_and_not_zero(kind: str) -> None:
    recursion = settings(halting=kind)
    logits = halting_logits().requires_grad_()
    losses = torch.rand(
        4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).requires_grad_()
    right = list(losses.detach() < 0.5)

    def run(losses: Tensor, logits: Tensor) -> Tensor:
        if kind == "ponder":
            return ponder_loss(list(losses), list(logits), recursion)
        return correctness_loss(list(losses), list(logits), right, recursion)

    assert torch.autograd.gradcheck(run, (losses, logits))
    (gradient,) = torch.autograd.grad(run(losses, logits).sum(), logits)
    assert gradient[:-1].abs().min() > 0


def test_a_count_of_steps_teaches_nothing() -> None:
    """The control: the reference's 0.01 * steps."""
    logits = halting_logits().requires_grad_()
    assert not (0.01 * exits(list(logits), settings(halting="ponder")).double()).requires_grad


def test_a_token_stops_where_its_chance_reaches_the_threshold() -> None:
    logits = halting_logits()
    ponder = exits(list(logits), settings(halting="ponder", halt_at=0.6))
    correctness = exits(list(logits), settings(halting="correctness", halt_at=0.6))
    for place in [(b, t) for b in range(2) for t in range(3)]:
        sums = accumulate(chances_oracle(logits[:, *place]).tolist())
        assert ponder[place] == next(n for n, total in enumerate(sums) if total >= 0.6)
        sure = [n for n in range(4) if 1 / (1 + math.exp(-float(logits[n, *place]))) >= 0.6]
        assert correctness[place] == (sure[0] if sure else 3)


def test_a_higher_threshold_never_stops_earlier() -> None:
    logits = list(halting_logits(3, 6))
    for kind in ("ponder", "correctness"):
        steps = [exits(logits, settings(halting=kind, halt_at=at)) for at in (0.1, 0.4, 0.7, 0.95)]
        assert all((b >= a).all() for a, b in pairwise(steps))


@pytest.mark.parametrize("kind", ["ponder", "correctness"])
def test_halted_gives_each_token_the_answer_of_its_step(kind: str) -> None:
    model, tokens = pico(halting=kind, halt_at=0.5), text(1, 2, 7)
    assert model.halting is not None
    with torch.no_grad():
        model.halting.weight.copy_(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)))
        logits, at = model.halted(tokens)
    by_step = []
    for supervision in range(1, 5):
        shorter = pico(halting=kind, supervision=supervision)
        shorter.load_state_dict(model.state_dict())
        by_step.append(shorter(tokens))
    assert len(at.unique()) > 1
    for place in [(b, t) for b in range(2) for t in range(7)]:
        torch.testing.assert_close(logits[place], by_step[int(at[place])][place])


def test_the_steps_end_with_the_last_token_that_stops() -> None:
    model, calls = pico(halting="ponder"), []
    assert model.halting is not None
    with torch.no_grad():
        model.halting.bias.fill_(20.0)
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    assert not model.halted(text(0, 2, 5))[1].any()
    assert len(calls) == 3 * 3
    with pytest.raises(ValueError, match="no halting"):
        pico().halted(text(0, 1, 3))


@pytest.mark.parametrize("kind", [None, "ponder", "correctness"])
def test_the_training_loss_adds_up_every_supervision_step(kind: str | None) -> None:
    model, x, y = pico(halting=kind), text(2, 2, 7), text(3, 2, 7)
    y[0, :4] = -100
    recursion = model.config.recursion
    assert recursion is not None
    losses, answers = [], []
    model.norm.register_forward_hook(lambda module, inputs, out: answers.append(out))
    got = model.training_loss(x, y)
    for answer in answers[8::9]:
        logits = F.linear(answer, model.embedding.weight)
        losses.append(F.cross_entropy(logits.mT, y, reduction="none"))
    if kind is None:
        each = sum(losses, torch.zeros(())) / 4
    else:
        assert model.halting is not None
        stops = [model.halting(answer)[..., 0] for answer in answers[8::9]]
        rights = [F.linear(a, model.embedding.weight).argmax(-1) == y for a in answers[8::9]]
        each = (
            ponder_loss(losses, stops, recursion)
            if kind == "ponder"
            else correctness_loss(losses, stops, rights, recursion)
        )
    torch.testing.assert_close(got, each[y != -100].mean())
    assert torch.allclose(model.loss(x, y), losses[-1][y != -100].mean())


def test_it_learns_and_compiles_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    training = TrainingConfig(
        steps=40, batch_size=4, micro_batch=4, warmup_steps=2, learning_rate=1e-2, qk_clip=50
    )
    x, y = text(4, 4, 12), text(5, 4, 12)
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend="eager", **options))
    changes: dict[str, Any] = {"halting": "ponder", "supervision": 2, "latent_steps": 1, "cycles": 1}
    trained = [
        Trainer(pico(**changes), training, torch.device("cpu"), compile=compiled)
        for compiled in (False, True)
    ]
    losses = [[each.train_step(step, x, y).loss for step in range(12)] for each in trained]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] < losses[0][0] - 1
