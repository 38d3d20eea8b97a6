"""The probes say what was built into the model, and leave it as it was."""

from __future__ import annotations

import math

import pytest
import torch

from forge.config import MemoryConfig, ModelConfig, RecursionConfig
from forge.models.decoder import Decoder
from forge.models.memory import MagGate
from forge.models.probe import gate_use, halting_shares

PICO = ModelConfig(
    vocab_size=260, d_model=16, n_layers=3, n_heads=2, d_ff=32, max_seq_len=16,
    memory=MemoryConfig(n_heads=2, chunk=4, every=2),
    recursion=RecursionConfig(latent_steps=1, supervision=3, halting="ponder"),
)  # fmt: skip
TOKENS = torch.arange(20).view(2, 10)


def pico() -> Decoder:
    return Decoder(PICO).initialise(torch.Generator().manual_seed(0))


def gates(model: Decoder) -> list[MagGate]:
    return [module for module in model.modules() if isinstance(module, MagGate)]


def test_a_gate_that_memory_cannot_move_is_not_used_and_a_wide_open_one_is() -> None:
    model = pico()
    with torch.no_grad():
        gates(model)[0].memory_norm.weight.zero_()
        gates(model)[1].memory_norm.weight.fill_(1e4)
    first, second = gate_use(model, TOKENS)
    assert first == 0.0
    assert second > 0.95
    assert not any(gate._forward_hooks for gate in gates(model))


def test_without_a_memory_there_is_no_gate() -> None:
    plain = Decoder(PICO.model_copy(update={"memory": None})).initialise(torch.Generator().manual_seed(0))
    assert gate_use(plain, TOKENS) == []


@pytest.mark.parametrize(("chance", "shares"), [(0.9, [1, 0, 0]), (0.4, [0, 1, 0]), (0.1, [0, 0, 1])])
def test_shares_of_tokens_by_the_step_where_they_stop(chance: float, shares: list[float]) -> None:
    model = pico()
    assert model.halting is not None
    with torch.no_grad():
        model.halting.bias.fill_(math.log(chance / (1 - chance)))
    assert halting_shares(model, TOKENS) == shares
    with pytest.raises(ValueError, match="no halting"):
        halting_shares(Decoder(PICO.model_copy(update={"recursion": None})), TOKENS)
