"""The report of the Cognate phase: before is the base, after are the branches, each on every speciality."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from forge.config import BRANCHES, Branch, PipelineConfig
from forge.evals import Interval
from forge.phases.cognate.specialities import Figures, Measured, corpora_of

BITS = "bits/byte"


def report(figures: Figures, config: PipelineConfig, skipped: int) -> dict[str, Any]:
    """Lines for a person, and everything behind them."""
    return {
        "title": "Cognate",
        "rows": rows(figures, config),
        "figures": {
            "specialities": {
                speciality: {
                    "corpora": list(corpora_of(speciality, config.data)),
                    "best": figures.best_at(speciality),
                    "models": {name: _described(one) for name, one in row.items()},
                    "ahead_of": _ahead(speciality, row),
                }
                for speciality, row in figures.table.items()
            },
            "test_bpb": dict(figures.whole),
            "stops": dict(figures.stops),
            "best_at_home": figures.at_home,
        },
        "seed": config.seed,
        "skipped_updates": skipped,
    }


def rows(figures: Figures, config: PipelineConfig) -> list[dict[str, Any]]:
    """One line for the outcome, then each model on each speciality."""
    outcome = f"{figures.at_home} of {len(BRANCHES)}"
    lines = [_line("best at its own", outcome, "", f"branches, by {BITS}")]
    for speciality, row in figures.table.items():
        for name, one in row.items():
            lines.append(_row(speciality, name, one, figures, config))
    return lines


def _row(
    speciality: Branch, name: Branch, one: Measured, figures: Figures, config: PipelineConfig
) -> dict[str, Any]:
    label = f"{speciality}: {name}"
    best = ", best" if figures.best_at(speciality) == name else ""
    accuracy = one.accuracy
    if speciality == "speed":
        steps = config.model.recursion.supervision if config.model.recursion else 1
        note = f"after 1 of {steps} steps; stops after {figures.stops[name]:.2f}{best}"
        return _line(label, one.bits_per_byte, BITS, note)
    if accuracy is None:
        return _line(label, one.bits_per_byte, BITS, best.removeprefix(", "))
    low, high = (f"{100 * bound:.1f}" for bound in (accuracy.low, accuracy.high))
    note = f"{low} to {high}; {one.bits_per_byte:.3f} {BITS}{best}"
    return _line(label, round(100 * accuracy.mean, 1), "%", note)


def _line(label: str, value: float | str, unit: str, note: str) -> dict[str, Any]:
    return {"label": label, "value": value, "unit": unit, "note": note}


def _described(one: Measured) -> dict[str, Any]:
    return {"bits_per_byte": one.bits_per_byte, "accuracy": _interval(one.accuracy)}


def _ahead(speciality: Branch, row: Any) -> dict[str, Any]:
    """By how much the branch is more accurate than each other model at what it is for."""
    own = row[speciality]
    return {name: _interval(own.ahead_of(other)) for name, other in row.items() if name != speciality}


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)
