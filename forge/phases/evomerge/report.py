"""What EvoMerge hands on, and the lines that say why: the fittest merge beside its controls, on test.

The test split is read once, when everything is decided but this: that the fittest on dev ships only if it is
fitter on test than the uniform average, and no merge does that is less fit there than the best parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from forge.contract import Individual
from forge.evals import Interval, paired_interval
from forge.phases.evomerge.measure import ACCURACY, BITS, Measures

FITTEST, AVERAGE, PARENT, RANDOM, BASE = "fittest", "average", "parent", "random", "base"
"""What is measured on the test split."""
LABELS = {
    FITTEST: "fittest merge",
    AVERAGE: "uniform average",
    PARENT: "best parent",
    RANDOM: "random search",
    BASE: "shared base",
}


@dataclass(frozen=True)
class Verdict:
    """What was decided."""

    ships: str
    """One of the names above."""
    because: str


def decide(found: Mapping[str, Measures]) -> Verdict:
    """Which of the measured is handed on."""
    fit = {name: measures.fitness for name, measures in found.items()}
    best = FITTEST if fit[FITTEST] > fit[AVERAGE] else AVERAGE
    if fit[PARENT] > fit[best]:
        return Verdict(PARENT, "no merge was as fit on the test split as the best parent, which is handed on")
    if best is AVERAGE:
        return Verdict(
            AVERAGE, "the search did not beat the uniform average on the test split, which is handed on"
        )
    return Verdict(FITTEST, "fitter than the uniform average and the best parent on the test split")


def gain(found: Mapping[str, Measures], over: str, ships: str) -> Interval:
    """Bits per byte that what ships saves beside another, corpora counting alike; by paired bootstrap."""
    return paired_interval(_weighted(found[over]), _weighted(found[ships]))


def _weighted(measures: Measures) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Bits of every window of every corpus, such that the mean of all is the mean over corpora."""
    corpora = [items for name, items in measures.items.items() if name.startswith(BITS)]
    windows = sum(map(len, corpora))
    return np.concatenate([items * (windows / len(corpora) / len(items)) for items in corpora])


def rows(
    found: Mapping[str, Measures], who: Mapping[str, Individual], verdict: Verdict
) -> list[dict[str, Any]]:
    """The figures as lines for a person."""
    lines = []
    for name, measures in found.items():
        individual = who.get(name)
        note = "" if individual is None else individual.name
        if name == verdict.ships:
            note = f"{note}, handed on" if note else "handed on"
        lines.append(_row(LABELS[name], measures.bits_per_byte, "bits/byte", note))
        if accuracies := [100 * mean for key, mean in measures.means.items() if key.startswith(ACCURACY)]:
            lines.append(_row("  tasks", float(np.mean(accuracies)), "%", "right, chance taken off"))
    for over in (PARENT, AVERAGE, RANDOM):
        if over in found and over != verdict.ships:
            interval = gain(found, over, verdict.ships)
            note = f"95 %: {interval.low:+.4f} to {interval.high:+.4f}"
            lines.append(_row(f"saved over {LABELS[over]}", interval.mean, "bits/byte", note))
    return lines


def figures(found: Mapping[str, Measures], verdict: Verdict) -> dict[str, Any]:
    """The same for programs."""
    return {
        "ships": verdict.ships,
        **{
            name: {"fitness": measures.fitness, "bpb": measures.bits_per_byte, **measures.means}
            for name, measures in found.items()
        },
        "saved": {
            over: {"mean": interval.mean, "low": interval.low, "high": interval.high}
            for over in (PARENT, AVERAGE, RANDOM)
            if over in found and over != verdict.ships
            for interval in [gain(found, over, verdict.ships)]
        },
    }


def _row(label: str, value: float, unit: str, note: str) -> dict[str, Any]:
    return {"label": label, "value": value, "unit": unit, "note": note}
