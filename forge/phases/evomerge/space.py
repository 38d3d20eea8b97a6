"""The space that is searched: a weight and a density for every model in every group of layers.

A point of it is a recipe that `forge merge` reads as well. Weights are magnitudes and densities are reflected
at 1, so every vector of numbers is a point, and none lies outside (mergekit's `evolve` clamps them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from forge.config import EvoMergeConfig
from forge.merge.checkpoint import layer_name

Vector = npt.NDArray[np.float64]
Document = dict[str, Any]

PARAMETERS = 2
"""Of a model in a group: weight and density."""
LEAST_DENSITY = 0.05


@dataclass(frozen=True)
class Space:
    """Layer groups × models × {weight, density}."""

    base: str
    models: tuple[str, ...]
    method: str
    groups: tuple[tuple[str, ...], ...]
    """Parts of the names of the tensors of each group of layers; what has none of them is one group more."""
    seed: int
    labels: tuple[str, ...] = ()
    """What people call the models; empty calls them by their ids."""

    @classmethod
    def of(
        cls,
        base: str,
        models: Sequence[str],
        stack: tuple[str, int] | None,
        config: EvoMergeConfig,
        seed: int,
        labels: Sequence[str] = (),
    ) -> Space:
        """The space of a stack of layers, as `Checkpoint.stack` tells of it."""
        prefix, layers = stack or ("", 0)
        parts = np.array_split(np.arange(layers), config.groups)
        groups = tuple(tuple(layer_name(prefix, int(n), "") for n in part) for part in parts)
        return cls(base, tuple(models), config.method, groups, seed, tuple(labels))

    @property
    def size(self) -> int:
        """Numbers of a genome."""
        return (len(self.groups) + 1) * len(self.models) * PARAMETERS

    @property
    def start(self) -> Vector:
        """The uniform average, all differences kept."""
        genome = np.ones((len(self.groups) + 1, len(self.models), PARAMETERS))
        genome[:, :, 0] = 1.0 / len(self.models)
        return genome.reshape(-1)

    def values(self, genome: Sequence[float]) -> tuple[Vector, Vector]:
        """Weights and densities of a genome, both (groups, models)."""
        raw = np.asarray(genome, np.float64).reshape(len(self.groups) + 1, len(self.models), PARAMETERS)
        densities = np.clip(1.0 - np.abs(1.0 - raw[:, :, 1]), LEAST_DENSITY, 1.0)
        return np.abs(raw[:, :, 0]), densities

    def recipe(self, genome: Sequence[float]) -> list[Document]:
        """The recipe of a point."""
        weights, densities = self.values(genome)
        models = [
            {
                "model": model,
                "parameters": {
                    "weight": self.by_group(weights[:, place]),
                    "density": self.by_group(densities[:, place]),
                },
            }
            for place, model in enumerate(self.models)
        ]
        return [self.document(self.method, models)]

    def document(self, method: str, models: list[Any], name: str = "", **more: Any) -> Document:
        """A recipe of differences to the base."""
        named = {"name": name} if name else {}
        return {**named, "merge_method": method, "base_model": self.base, "models": models,
                "seed": self.seed, **more}  # fmt: skip

    def by_group(self, values: Sequence[float] | Vector) -> list[Document]:
        """A value for each group, as a recipe writes it."""
        *layers, outside = (float(value) for value in values)
        filters = [
            {"filter": part, "value": value}
            for group, value in zip(self.groups, layers, strict=True)
            for part in group
        ]
        return [*filters, {"value": outside}]

    def shares(self, genome: Sequence[float]) -> Mapping[str, float]:
        """How much each model counts in a point, over all groups."""
        weights = self.values(genome)[0].sum(axis=0)
        whole = float(weights.sum()) or 1.0
        return {model: float(weight) / whole for model, weight in zip(self.models, weights, strict=True)}

    def drawn(self, generator: np.random.Generator) -> Vector:
        """A point drawn evenly: weights whose mean is that of the average, densities between bounds."""
        shape = (len(self.groups) + 1, len(self.models))
        weights = generator.uniform(0.0, 2.0 / len(self.models), shape)
        densities = generator.uniform(LEAST_DENSITY, 1.0, shape)
        return np.stack([weights, densities], axis=-1).reshape(-1)
