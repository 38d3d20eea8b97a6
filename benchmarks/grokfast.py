"""The Grokfast filter: ours with foreach kernels against `grokfast-pytorch` and a per-parameter loop.

Each side is a whole optimiser step, filter and AdamW, on the same gradients; the filter's settings and
so its arithmetic are the same on all sides.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.table import Row, left_out, print_table, row
from forge.config import GrokfastConfig, TrainingConfig, load_config
from forge.models.decoder import Decoder
from forge.optim.build import build_optimizer
from forge.optim.grokfast import Grokfast
from forge.validate.pairs import Comparison, Run, compare, seconds

ALPHA, LAMB = 0.98, 2.0


def run(quick: bool) -> list[Row]:
    """Rows for the `tiny` model, and `25m` unless quick."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs = 20 if quick else 50
    # No budget against the loop: on a CPU both move the same bytes, only a GPU gains from one kernel.
    sides: list[tuple[str, Callable[[nn.Module], Run], float | None]] = [
        ("a per-parameter loop", _loop, None)
    ]
    if find_spec("grokfast_pytorch") is None:
        left_out("grokfast", "grokfast-pytorch")
    else:
        sides.insert(0, ("grokfast-pytorch", _peer, 1.0))
    rows = []
    for preset in ["tiny"] if quick else ["tiny", "25m"]:
        for name, peer, budget in sides:
            found = _measure(_model(preset, device), _model(preset, device), peer, pairs)
            rows.append(row(f"filter and AdamW / {name}, {preset}, {device.type}", found, budget=budget))
    return rows


def _measure(ours: nn.Module, theirs: nn.Module, peer: Callable[[nn.Module], Run], pairs: int) -> Comparison:
    gradients = [p.grad.clone() for p in ours.parameters() if p.grad is not None]

    def fresh(run: Run) -> float:
        # The filter writes to the gradient: fed its own output again and again, it would overflow.
        for model in (ours, theirs):
            torch._foreach_copy_([p.grad for p in model.parameters() if p.grad is not None], gradients)
        return seconds(run)

    return compare(_ours(ours), peer(theirs), pairs, clock=fresh)


def _model(preset: str, device: torch.device) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = Decoder(load_config(preset).model).initialise(generator).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(device)
    return model


def _ours(model: nn.Module) -> Run:
    device = next(model.parameters()).device
    optimizers = build_optimizer(model, TrainingConfig(weight_decay=0.0), device)
    filter_ = Grokfast(GrokfastConfig(alpha=ALPHA, lamb=LAMB))

    def step() -> None:
        filter_.apply(optimizers.named)
        optimizers.step()
        _wait(device)

    return step


def _peer(model: nn.Module) -> Run:
    from grokfast_pytorch import GrokFastAdamW

    optimizer = GrokFastAdamW(model.parameters(), grokfast_alpha=ALPHA, grokfast_lamb=LAMB)

    def step() -> None:
        optimizer.step()
        _wait(next(model.parameters()).device)

    return step


def _loop(model: nn.Module) -> Run:
    device = next(model.parameters()).device
    optimizers = build_optimizer(model, TrainingConfig(weight_decay=0.0), device)
    averages: dict[str, Tensor] = {}

    def step() -> None:
        for name, parameter in model.named_parameters():
            grad = parameter.grad
            if grad is None:
                continue
            if name not in averages:
                averages[name] = grad.clone()
            averages[name].mul_(ALPHA).add_(grad, alpha=1 - ALPHA)
            grad.add_(averages[name], alpha=LAMB)
        optimizers.step()
        _wait(device)

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print_table("grokfast", run(quick=False))
