"""Gradient checkpointing: the same numbers to the bit, from less memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from forge.config import TrainingConfig
from forge.models.decoder import Decoder
from forge.optim.trainer import Trainer
from tests.unit.models.test_cognate import pico, text
from tests.unit.optim.test_trainer import compile_with


def batch() -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T)."""
    tokens = text(1, 4, 33)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def gradients(model: Decoder) -> tuple[float, dict[str, Tensor], int]:
    """The loss, what each weight gets of it, and the bytes that were kept for it."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.training_loss(*batch())
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, kept


@pytest.mark.parametrize("shape", ["plain", "mag", "all"])
def test_the_gradient_is_the_same_to_the_bit_and_less_is_kept(shape: str) -> None:
    whole, again = pico(shape), pico(shape)
    again.recompute = True
    loss, expected, most = gradients(whole)
    same, found, kept = gradients(again)
    assert same == loss
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], grad) for name, grad in expected.items())
    assert kept < most / 3


@pytest.mark.parametrize("shape", ["plain", "recursion"])
def test_a_compiled_step_is_the_same_too(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_with("aot_eager", monkeypatch)
    results = []
    for recompute in (False, True):
        training = TrainingConfig(batch_size=4, micro_batch=2, gradient_checkpointing=recompute, qk_clip=5)
        trainer = Trainer(pico(shape), training, torch.device("cpu"), compile=True)
        results.append([trainer.train_step(step, *batch()) for step in range(2)])
    assert [(r.loss, r.peak_logit) for r in results[1]] == [(r.loss, r.peak_logit) for r in results[0]]


def test_without_a_gradient_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pico()
    model.recompute = True
    monkeypatch.setattr("forge.models.decoder.checkpoint", lambda *args, **kwargs: pytest.fail("recomputes"))
    with torch.no_grad():
        model.training_loss(*batch())
