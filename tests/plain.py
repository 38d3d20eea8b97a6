"""The phase contract without the engine: no disk, no registry, no threads; for proofs of the algorithms.

Steps run from 0 to the end, and what is logged is kept in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from forge.config import PipelineConfig
from forge.contract import Individual, LoadedModel, PhaseResult, Population, Precision, Stateful
from forge.engine.generators import SeededGenerators


class PlainPopulation:
    """`Population` in memory."""

    def __init__(self) -> None:
        self.all: dict[str, Individual] = {}

    def known(self) -> Mapping[str, Individual]:
        """All of them."""
        return self.all

    def add(self, individuals: Sequence[Individual]) -> None:
        """Keep those that are new."""
        for individual in individuals:
            self.all.setdefault(individual.key, individual)

    def measured(self, key: str, fitness: float, metrics: Mapping[str, float]) -> None:
        """Keep what was found."""
        self.all[key] = replace(self.all[key], fitness=fitness, metrics=metrics)


class PlainContext:
    """`PhaseContext` of one phase, on the CPU unless told otherwise."""

    def __init__(
        self,
        config: PipelineConfig,
        position: int,
        cache: Path,
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        self.session_id = "plain"
        self.config = config
        self.device = torch.device(device)
        self.precision: Precision = precision
        self.compile = False
        self.cache = cache
        self.rng = SeededGenerators(config.seed, position)
        self.folders: dict[str, Path] = {}
        """Where models lie, by id."""
        self.population: Population = PlainPopulation()
        self.series: dict[str, dict[int, float]] = defaultdict(dict)
        self.events: list[tuple[str, str]] = []

    def steps(
        self, total: int, state: Stateful, *, tokens: int = 0, evaluate: Callable[[int], None] | None = None
    ) -> Iterator[int]:
        """All steps."""
        measure = evaluate or (lambda done: None)
        measure(0)
        for step in range(total):
            yield step
            measure(step + 1)

    def poll(self) -> None:
        """Nobody asks for anything."""

    def log(self, step: int, /, **metrics: float) -> None:
        """Keep the values."""
        for name, value in metrics.items():
            self.series[name][step] = value

    def model_folder(self, model_id: str) -> Path:
        """As `folders` says."""
        return self.folders[model_id]

    def event(self, kind: str, message: str, *, step: int | None = None, level: str = "info") -> None:
        """Keep the event."""
        self.events.append((kind, message))

    def warn(self, kind: str, message: str) -> None:
        """Keep the warning."""
        self.events.append((kind, message))

    def status(self, message: str) -> None:
        """Nobody watches."""


def handed_on(result: PhaseResult, phase: str) -> LoadedModel:
    """The one model of a phase, as the next phase gets it."""
    (model,) = result.models
    return LoadedModel(phase, model.module, model.config, model.tokenizer, {**model.card})


def figures(result: PhaseResult) -> dict[str, Any]:
    """What Forging measured."""
    measured: dict[str, Any] = result.report["figures"]
    return measured
