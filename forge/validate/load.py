"""What a proof of cost compares with: a machine whose processors somebody else burns."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from forge.engine.device import usable_cores
from forge.validate.child import program
from forge.validate.noise import Noise
from forge.validate.pairs import Comparison
from forge.validate.result import Figure

_BURN = "while True: pass"
WIDEST = 4
"""An interval more than so many times as wide as the limit tells nothing."""


@contextmanager
def burning() -> Iterator[None]:
    """Two busy programs for every core, so that a run has to feel them wherever it computes."""
    burners = [subprocess.Popen(program(_BURN)) for _ in range(2 * usable_cores())]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
        for burner in burners:
            burner.wait()


def cost(name: str, found: Comparison, most: float, noise: Noise) -> Figure:
    """The time of a step with something beside it, over that without, as percent more; at most `most`.

    One over the limit counts where its whole interval is, on a machine that had the time; one that keeps to
    it where the interval is not many times as wide as the limit.
    """
    percent, low, high = (100 * (ratio - 1) for ratio in (found.ratio, found.low, found.high))
    doubt = ""
    if low <= most < percent or (percent <= most and high - low > WIDEST * most):
        why = (
            "cannot be told from its limit"
            if low <= most < high
            else "cannot be told: the machine is too restless"
        )
        doubt = (
            f"{name} {why}: the interval of the pairs reaches from {low:.1f} to "
            f"{high:.1f} %; run it without --quick, and when the machine is at rest"
        )
    elif percent > most and 2 * noise.disturbed > noise.measured:
        doubt = f"{name} cannot be measured now: {noise.sentence()}"
    return Figure(name, percent, "%", "<=", most, low=low, high=high, doubt=doubt)
