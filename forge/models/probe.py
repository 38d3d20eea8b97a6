"""What a model does with its memory and its recursion, measured on a text; nothing of the model changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from forge.models.decoder import Decoder
from forge.models.memory import MagGate


@torch.no_grad()
def gate_use(model: Decoder, tokens: Tensor) -> list[float]:
    """How far each block's memory moves its gate from one half, where an empty memory leaves it, in 0..1.

    The mean over `tokens` (B, T) and all applications of the stack, in the order of the blocks.
    """
    found: dict[nn.Module, list[Tensor]] = {}

    def note(gate: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        assert isinstance(gate, MagGate)
        found.setdefault(gate, []).append(2.0 * (gate.opening(inputs[1]).float() - 0.5).abs().mean())

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, MagGate)]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return [float(torch.stack(each).mean()) for each in found.values()]


@torch.no_grad()
def halting_shares(model: Decoder, tokens: Tensor) -> list[float]:
    """Share of `tokens` (B, T) that stop after each supervision step; raises ValueError as `halted` does."""
    _, at = model.halted(tokens)
    recursion = model.config.recursion
    steps = recursion.supervision if recursion else 1
    counts = torch.bincount(at.flatten(), minlength=steps)
    return [float(count) / at.numel() for count in counts]
