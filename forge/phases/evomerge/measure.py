"""How good a candidate is: merged into the one model that a worker has, measured, and forgotten.

Everything here is picklable and writes nothing, so that it runs in any process. The measures of a candidate
do not depend on which worker it met, nor on what that worker measured before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from forge.config import ModelConfig
from forge.contract import Precision
from forge.data import Split, has_questions, open_shards
from forge.errors import CorpusError
from forge.evals import Examination, HeldOut, mean_interval
from forge.merge import Parents
from forge.models.decoder import Decoder

Recipe = Sequence[Mapping[str, Any]]

BITS, ACCURACY = "bpb", "accuracy"
"""Beginnings of the names of measures; the corpus follows."""


@dataclass(frozen=True)
class Bench:
    """What all candidates of a run are measured with."""

    parents: Mapping[str, Path]
    """Folders by model id, the base among them."""
    model: ModelConfig
    shards: Path
    corpora: tuple[str, ...]
    seq_len: int
    device: str
    precision: Precision
    threads: int
    """Of the tensor library, in every worker: a sum depends on it."""
    tokens: Mapping[Split, int]
    """Most tokens of each corpus that are read."""
    items: Mapping[Split, int]
    """Most questions of each task that are asked."""


@dataclass(frozen=True)
class Question:
    """A candidate, and the split that it is measured on."""

    recipe: Recipe
    split: Split = "dev"


@dataclass(frozen=True)
class Measures:
    """What was found, item by item, by the name of the measure."""

    items: Mapping[str, npt.NDArray[np.float64]] = field(repr=False)

    @property
    def means(self) -> dict[str, float]:
        """Bits per byte, and chance-corrected accuracy, of each corpus."""
        return {name: float(items.mean()) for name, items in self.items.items()}

    @property
    def certain(self) -> dict[str, float]:
        """The same, but of an accuracy no more than is certain: the lower end of its 95 % interval.

        Of a hundred candidates that only guess, some guess well; selected by that, a search finds luck.
        """
        low = {
            name: mean_interval(items).low for name, items in self.items.items() if name.startswith(ACCURACY)
        }
        return {**self.means, **low}

    @property
    def fitness(self) -> float:
        """See `fitness`; what selects."""
        return fitness(self.certain)

    @property
    def bits_per_byte(self) -> float:
        """The mean over corpora."""
        return _mean(self.means, BITS)


def fitness(measures: Mapping[str, float]) -> float:
    """Between 0 and 1: the probability that held-out text gets by the byte, 2^-(mean bits per byte over
    corpora); where there are tasks, the mean of that and of their chance-corrected accuracy.

    Not finite, or below chance, is 0. Speed and size are no part: candidates do not differ in them.
    """
    bits = _mean(measures, BITS)
    language = 2.0**-bits if math.isfinite(bits) and bits >= 0 else 0.0
    if not any(name.startswith(ACCURACY) for name in measures):
        return language
    accuracy = _mean(measures, ACCURACY)
    return (language + (min(1.0, accuracy) if accuracy > 0 else 0.0)) / 2


def _mean(measures: Mapping[str, float], kind: str) -> float:
    return float(np.mean([value for name, value in measures.items() if name.startswith(kind)]))


def examiner(bench: Bench) -> Callable[[Question], Measures]:
    """What a worker does with a question.

    Raises:
        MergeError: a parent cannot be read.
        CorpusError: the tokens are gone.
    """
    return Examiner(bench).ask


class Examiner:
    """Parents on disk, one model in memory, and the held-out splits."""

    def __init__(self, bench: Bench) -> None:
        torch.set_num_threads(bench.threads)
        shards = open_shards(bench.shards)
        if shards is None:
            raise CorpusError(
                f"the tokens in {bench.shards} are gone or damaged; resume, and they are made anew."
            )
        self._bench = bench
        self._parents = Parents(bench.parents)
        self._device = torch.device(bench.device)
        self._model = Decoder(bench.model).to(self._device)
        self._held_out = {
            corpus: HeldOut(shards, bench.seq_len, self._device, bench.precision, corpus)
            for corpus in bench.corpora
        }
        self._exams: dict[tuple[str, Split], Examination] = {}

    def ask(self, question: Question) -> Measures:
        """Merge and measure."""
        fill(self._model, self._parents, question.recipe)
        split, found = question.split, {}
        for corpus, held_out in self._held_out.items():
            tokens = self._bench.tokens[split]
            found[f"{BITS} {corpus}"] = held_out.bits_by_window(self._model, split, tokens)
            if has_questions(corpus):
                found[f"{ACCURACY} {corpus}"] = self._exam(corpus, split).ask(self._model).corrected
        return Measures(found)

    def _exam(self, corpus: str, split: Split) -> Examination:
        place = corpus, split
        if place not in self._exams:
            self._exams[place] = Examination(self._held_out[corpus], split, self._bench.items[split])
        return self._exams[place]


@torch.no_grad()
def fill(model: Decoder, parents: Parents, recipe: Recipe) -> None:
    """Make the weights of a model those of a recipe, tensor by tensor."""
    weights = model.state_dict()
    for name, values in parents.compose(recipe):
        weights[name].copy_(torch.from_numpy(values))
