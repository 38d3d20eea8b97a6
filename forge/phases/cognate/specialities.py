"""What the base and the branches can do: every one of them on the speciality of each.

Reasoning and memory are the questions of their mixes. Speed is the text of its mix after one supervision
step, which costs every model the same: who learned to stop early has most to say there. Bits per byte decide,
because they see every item; accuracy stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from forge.config import BRANCHES, Branch, DataConfig, PipelineConfig
from forge.contract import PhaseContext
from forge.data import eval_windows, has_questions
from forge.evals import Examination, HeldOut, Interval, mean_interval, paired_interval
from forge.models.decoder import Decoder
from forge.models.probe import gate_use, halting_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ITEMS = 500
"""Most items of one corpus that a model is asked."""
PROBED = 16
"""Sequences in one look at gates and halting."""


@dataclass(frozen=True)
class Measured:
    """One model on one speciality."""

    bits_per_byte: float
    """Mean over its corpora."""
    items: NDArray[np.float64] | None
    """Exact match of every question, chance-corrected; none where there is no question."""

    @property
    def accuracy(self) -> Interval | None:
        """Of all questions."""
        return None if self.items is None else mean_interval(self.items)

    def ahead_of(self, other: Measured) -> Interval | None:
        """How much more accurate it is, question by question."""
        if self.items is None or other.items is None:
            return None
        return paired_interval(self.items, other.items)


@dataclass(frozen=True)
class Figures:
    """Everything that was measured on the test split."""

    table: Mapping[Branch, Mapping[Branch, Measured]]
    """Speciality to model."""
    whole: Mapping[Branch, float]
    """Model to bits per byte of everything."""
    stops: Mapping[Branch, float]
    """Model to the supervision steps that it takes before it stops, on the mean."""

    def best_at(self, speciality: Branch) -> Branch:
        """The branch with the fewest bits per byte."""
        row = self.table[speciality]
        return min(BRANCHES, key=lambda branch: row[branch].bits_per_byte)

    @property
    def at_home(self) -> int:
        """How many branches are best at their own speciality."""
        return sum(self.best_at(branch) == branch for branch in BRANCHES)

    def metrics(self, model: Branch) -> dict[str, float]:
        """What goes with a model."""
        found = {"test_bpb": self.whole[model], "stops": self.stops[model]}
        for speciality, row in self.table.items():
            found[f"{speciality}_bpb"] = row[model].bits_per_byte
            if (accuracy := row[model].accuracy) is not None:
                found[f"{speciality}_accuracy"] = accuracy.mean
        return found


def corpora_of(speciality: Branch, data: DataConfig) -> tuple[str, ...]:
    """What a speciality is measured on."""
    mix = [share.corpus for share in data.shares(speciality)]
    questions = [corpus for corpus in mix if has_questions(corpus)]
    return tuple(mix if speciality == "speed" or not questions else questions)


def measure(
    ctx: PhaseContext, held_out: HeldOut, models: Mapping[Branch, Decoder], config: PipelineConfig
) -> Figures:
    """Measure every model on every speciality, once, on the test split."""
    most = config.cognate.report_tokens
    whole, stops = {}, {}
    for name, model in models.items():
        ctx.status(f"measuring {name} on held-out files")
        model.to(ctx.device)
        whole[name] = held_out.bits_per_byte(model, "test", most)
        stops[name] = mean_stop(halting_shares(model, _look_at(held_out, "test")))
    table: dict[Branch, dict[Branch, Measured]] = {}
    for speciality in BRANCHES:
        corpora = corpora_of(speciality, config.data)
        steps = 1 if speciality == "speed" else None
        where = [replace(held_out, corpus=corpus, steps=steps) for corpus in corpora]
        exams = [
            Examination(place, "test", MAX_ITEMS) for place in where if has_questions(place.corpus or "")
        ]
        table[speciality] = {}
        for name, model in models.items():
            ctx.status(f"measuring {name} at {speciality}")
            table[speciality][name] = _measure(model, where, exams, most)
    return Figures(table, whole, stops)


def _measure(model: Decoder, where: Sequence[HeldOut], exams: Sequence[Examination], most: int) -> Measured:
    bits = [place.bits_per_byte(model, "test", most) for place in where]
    items = [exam.ask(model).corrected for exam in exams]
    return Measured(float(np.mean(bits)), np.concatenate(items) if items else None)


def use_of_parts(held_out: HeldOut, model: Decoder) -> dict[str, float]:
    """How far the memory moves its gates, and after which supervision step how many tokens stop."""
    tokens = _look_at(held_out, "dev")
    shares = halting_shares(model, tokens)
    found = {"gate": float(np.mean(gate_use(model, tokens))), "stops": mean_stop(shares)}
    return found | {f"stop_{n}": share for n, share in enumerate(shares, start=1)}


def mean_stop(shares: Sequence[float]) -> float:
    """Supervision steps before a token stops, from the share that stops after each."""
    return float(sum(n * share for n, share in enumerate(shares, start=1)))


def _look_at(held_out: HeldOut, split: Any) -> torch.Tensor:
    most = PROBED * held_out.seq_len
    windows, _ = next(eval_windows(held_out.shards, split, held_out.seq_len, most, batch_size=PROBED))
    return torch.from_numpy(windows[:, :-1]).to(held_out.device)  # (N, seq_len)
