"""Grokfast: amplify the slow part of the gradient (Lee et al. 2024, arXiv 2405.20233, eq. 4 and 8).

A low-pass filter: `g + lamb * average(g)`. The exponential average starts at the first gradient, not at
zero, so step 1 already sees `(1 + lamb) * g`. The averages belong in the checkpoint: a resumed run
without them is a different run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from forge.config import GrokfastConfig


class Grokfast:
    """The filter between gradient clipping and the optimiser, once per optimiser step, in place."""

    def __init__(self, settings: GrokfastConfig) -> None:
        self.settings = settings
        self._average: dict[str, Tensor] = {}
        """EMA: the average. MA: the sum of the gradients in `_window`."""
        self._window: dict[str, Tensor] = {}
        """MA: the last `window` gradients of each parameter, (window, *shape), as a ring."""
        self._seen = 0

    @torch.no_grad()
    def apply(self, parameters: Mapping[str, Tensor]) -> None:
        """Filter the `.grad` of named parameters; those without a gradient are left alone."""
        grads = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        if not grads:
            return
        if self.settings.kind == "ema":
            self._apply_ema(grads)
        else:
            self._apply_ma(grads)
        self._seen += 1

    def _apply_ema(self, grads: Mapping[str, Tensor]) -> None:
        old = [name for name in grads if name in self._average]
        if old:
            averages = [self._average[name] for name in old]
            torch._foreach_lerp_(averages, [grads[name] for name in old], 1.0 - self.settings.alpha)
        for name in [name for name in grads if name not in self._average]:
            # A clone: the optimiser and the next line write to the gradient itself.
            self._average[name] = grads[name].clone()
        torch._foreach_add_(
            list(grads.values()), [self._average[name] for name in grads], alpha=self.settings.lamb
        )

    def _apply_ma(self, grads: Mapping[str, Tensor]) -> None:
        window = self.settings.window
        for name in [name for name in grads if name not in self._window]:
            self._window[name] = grads[name].new_zeros((window, *grads[name].shape))
            self._average[name] = torch.zeros_like(grads[name])
        slot = self._seen % window
        values = list(grads.values())
        sums = [self._average[name] for name in grads]
        oldest = [self._window[name][slot] for name in grads]
        torch._foreach_sub_(sums, oldest)
        torch._foreach_add_(sums, values)
        torch._foreach_copy_(oldest, values)
        if slot == window - 1:
            # Rounding errors of the running sums end here, once per round of the ring.
            for name, total in zip(grads, sums, strict=True):
                torch.sum(self._window[name], dim=0, out=total)
        if self._seen + 1 >= window:
            torch._foreach_add_(values, sums, alpha=self.settings.lamb / window)

    def state_dict(self) -> dict[str, Any]:
        """Averages by parameter name, and the number of gradients seen."""
        return {"seen": self._seen, "average": dict(self._average), "window": dict(self._window)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> None:
        """Take over a copy of a state, each average on the device of its parameter."""
        self._seen = int(state["seen"])
        for kind in ("average", "window"):
            loaded = {
                name: value.to(parameters[name].device, copy=True) for name, value in state[kind].items()
            }
            setattr(self, f"_{kind}", loaded)
