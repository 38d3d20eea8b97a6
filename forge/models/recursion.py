"""Tiny recursion: one stack used again and again, and how a token learns when to stop.

The answer y and a latent state z start at zero; n times z <- net(z + y + x), then y <- net(y + z) (TRM,
arXiv 2510.04871, figure 3). Only the last cycle of a supervision step has a gradient, and what one
supervision step hands to the next has none. Every loss here has a gradient with respect to the chance to
stop; a number of steps has none, and is only ever reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forge.config import RecursionConfig
from forge.models.layers import wide

Net = Callable[[Tensor], Tensor]


@dataclass
class Carry:
    """What one supervision step hands to the next, each (B, T, d_model)."""

    y: Tensor
    z: Tensor

    def detached(self) -> Carry:
        """The same without a gradient."""
        return Carry(self.y.detach(), self.z.detach())


class HaltingHead(nn.Linear):
    """Logit of stopping here, from the answer so far; in full precision."""

    def __init__(self, recursion: RecursionConfig, width: int) -> None:
        self._first = recursion.halting_prior if recursion.halting == "ponder" else 0.01
        super().__init__(width, 1)

    def reset_parameters(self) -> None:
        """Start at zero, where torch would draw from the global generator."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def logit(self, y: Tensor) -> Tensor:
        """(B, T, d_model) -> (B, T), in fp32 under autocast."""
        return wide(self(y).squeeze(-1))

    def draw(self, generator: torch.Generator) -> None:
        """First chance: the prior, or close to never (TRM); the same for all tokens."""
        self.weight.zero_()
        self.bias.fill_(math.log(self._first / (1 - self._first)))


def start(x: Tensor) -> Carry:
    """The carry before the first step; `x` is the input (B, T, d_model)."""
    return Carry(torch.zeros_like(x), torch.zeros_like(x))


def supervision_step(net: Net, x: Tensor, carry: Carry, recursion: RecursionConfig) -> Carry:
    """`cycles` recursions from a carry; all but the last without a gradient."""
    for cycle in range(recursion.cycles):
        if cycle < recursion.cycles - 1:
            with torch.no_grad():
                carry = _cycle(net, x, carry, recursion.latent_steps)
        else:
            carry = _cycle(net, x, carry, recursion.latent_steps)
    return carry


def _cycle(net: Net, x: Tensor, carry: Carry, latent_steps: int) -> Carry:
    y, z = carry.y, carry.z
    for _ in range(latent_steps):
        z = net(z + y + x)
    return Carry(net(y + z), z)


def applications(recursion: RecursionConfig | None) -> int:
    """How often the stack is applied to a token."""
    if recursion is None:
        return 1
    return recursion.supervision * recursion.cycles * (recursion.latent_steps + 1)


def stop_chances(halting: Sequence[Tensor]) -> Tensor:
    """Chance to stop at each of N steps, (N, ...), from the logits of stopping there when not before.

    p_n = lambda_n prod_{j<n} (1 - lambda_j) (PonderNet, eq. 7); at the last step whatever is left stops.
    """
    logits = torch.stack(list(halting)[:-1])  # (N - 1, ...)
    # Log of the chance to be still going after step n. Not `cumsum`: on CUDA it adds up in any order.
    going = torch.stack(list(accumulate(F.logsigmoid(-logits))))
    before = torch.cat((torch.zeros_like(going[:1]), going))
    here = torch.cat((F.logsigmoid(logits), torch.zeros_like(going[:1])))
    return (before + here).exp()


def prior_chances(prior: float, steps: int) -> list[float]:
    """The geometric distribution, cut at `steps`: what is left stops at the last one."""
    return [prior * (1 - prior) ** n for n in range(steps - 1)] + [(1 - prior) ** (steps - 1)]


def ponder_loss(losses: Sequence[Tensor], halting: Sequence[Tensor], recursion: RecursionConfig) -> Tensor:
    """sum_n p_n L_n + weight * KL(p || geometric) for every token (PonderNet, eq. 8)."""
    chances = stop_chances(halting)  # (N, B, T)
    prior = chances.new_tensor(prior_chances(recursion.halting_prior, len(losses)))
    ratio = chances.clamp(min=1e-12).log() - prior.log().view(-1, *(1,) * losses[0].ndim)
    divergence = (chances * ratio).sum(0)
    return (chances * torch.stack(list(losses))).sum(0) + recursion.halting_weight * divergence


def correctness_loss(
    losses: Sequence[Tensor], halting: Sequence[Tensor], right: Sequence[Tensor], recursion: RecursionConfig
) -> Tensor:
    """Mean over the steps of L_n + weight * BCE(q_n, right_n) for every token (TRM, section 4.6).

    `right` says whether the step's answer is the target; it is a target itself and has no gradient.
    """
    each = [
        loss
        + recursion.halting_weight * F.binary_cross_entropy_with_logits(q, ok.to(q.dtype), reduction="none")
        for loss, q, ok in zip(losses, halting, right, strict=True)
    ]
    return torch.stack(each).mean(0)


def exits(halting: Sequence[Tensor], recursion: RecursionConfig) -> Tensor:
    """The step (0 ... N-1) at which each token stops: the first at which its chance reaches `halt_at`."""
    if recursion.halting == "ponder":
        reached = torch.stack(list(accumulate(stop_chances(halting)))) >= recursion.halt_at
    else:
        reached = torch.sigmoid(torch.stack(list(halting))) >= recursion.halt_at
    reached[-1] = True
    return reached.int().argmax(0)
