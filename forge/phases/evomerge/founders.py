"""Generation 0: the parents and their average, the plain methods, and eight combinations of three steps.

The combinations are those of the public specification, repaired: there the third step threw away what the
first two had made, so that the eight were about two. Here a step has the result of the one before beside the
models, never instead of them:

1. interpolation: `linear` or `multislerp` of the models;
2. sparsification: `dare_linear` or `ties` of the differences of the models and of 1 to the base;
3. layers: `franken` takes each group from the source that did best there when it alone was put into the
   average (an ablation, measured), `fusion` weighs the sources by that; the sources are the models and 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from forge.phases.evomerge.space import Document, Space, Vector

AVERAGE = "linear"
"""Name of the uniform average: the control, and what an ablation changes."""
INTERPOLATIONS = ("linear", "multislerp")
SPARSIFICATIONS = ("dare_linear", "ties")
LAYERS = ("franken", "fusion")
_FIRST, _SECOND = "interpolated", "sparsified"
_DENSITY = 0.5
"""Of what is dropped at random or by size: DARE's authors and mergekit's users find half to be safe."""
_FURTHEST = 3.0
"""Standard deviations beyond which an ablation counts no more."""


def parent(model: str) -> list[Document]:
    """A model as it is."""
    return [{"merge_method": "passthrough", "models": [{"model": model}]}]


def average(space: Space) -> list[Document]:
    """The uniform average."""
    return [_linear(space.models)]


def ablation(space: Space, group: int, model: str) -> list[Document]:
    """The average, but for one group of layers, which is that of one model."""
    shares = np.full((len(space.groups) + 1, len(space.models)), 1.0 / len(space.models))
    shares[group] = [float(other == model) for other in space.models]
    return [_weighted(space, space.models, shares)]


def plain(space: Space, ranked: Sequence[str]) -> Iterator[tuple[str, list[Document]]]:
    """The methods by themselves; `ranked` are the models, the fittest first."""
    mean = 1.0 / len(space.models)
    yield "multislerp", [{"merge_method": "multislerp", **_models(space.models)}]
    between = {"models": [{"model": model} for model in ranked[:2]], "parameters": {"t": 0.5}}
    yield "slerp", [{"merge_method": "slerp", "base_model": ranked[0], **between}]
    yield "task_arithmetic", _of_deltas(space, "task_arithmetic", weight=1.5 * mean)
    yield "ties", _of_deltas(space, "ties", weight=1.0, density=_DENSITY)
    yield "dare_linear", _of_deltas(space, "dare_linear", weight=mean, density=_DENSITY)
    yield "dare_ties", _of_deltas(space, "dare_ties", weight=mean, density=_DENSITY)
    yield "della", _of_deltas(space, "della", weight=mean, density=_DENSITY)
    yield "della_linear", _of_deltas(space, "della_linear", weight=mean, density=_DENSITY)
    yield "breadcrumbs", _of_deltas(space, "breadcrumbs", weight=mean, density=0.9)


def combinations(space: Space, gains: Vector) -> Iterator[tuple[str, list[Document]]]:
    """All eight; `gains` (groups, models) is how much fitter an ablation was than the average."""
    for steps in product(INTERPOLATIONS, SPARSIFICATIONS, LAYERS):
        yield "+".join(steps), _combination(space, *steps, gains)


def _combination(
    space: Space, interpolation: str, sparsification: str, layers: str, gains: Vector
) -> list[Document]:
    inner = [*space.models, _FIRST]
    settings = (
        {"weight": 1.0 / len(inner), "density": _DENSITY}
        if sparsification == "dare_linear"
        else {"weight": 1.0, "density": _DENSITY}
    )
    sources = (*space.models, _SECOND)
    return [
        {"name": _FIRST, "merge_method": interpolation, **_models(space.models)},
        space.document(sparsification, [{"model": m} for m in inner], _SECOND, parameters=settings),
        _weighted(space, sources, _chosen(gains) if layers == "franken" else _fused(gains)),
    ]


def _chosen(gains: Vector) -> Vector:
    """All of each group from its best source: a model that is fitter there, else the step before."""
    with_before = np.concatenate([gains, np.zeros((len(gains), 1))], axis=1)  # (groups, models + 1)
    # Of equals the last: the step before is only given up for a gain.
    best = with_before.shape[1] - 1 - np.argmax(with_before[:, ::-1], axis=1)
    one_hot: Vector = np.eye(with_before.shape[1])[best]
    return one_hot


def _fused(gains: Vector) -> Vector:
    """The sources of each group by how fit they were there, in units of how much that differs."""
    spread = float(gains.std())
    standing = np.clip(gains / spread, -_FURTHEST, _FURTHEST) if spread > 0 else np.zeros_like(gains)
    weights = np.exp(np.concatenate([standing, np.zeros((len(gains), 1))], axis=1))
    shares: Vector = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _of_deltas(space: Space, method: str, **settings: float) -> list[Document]:
    return [space.document(method, [{"model": m} for m in space.models], parameters=settings)]


def _linear(models: Sequence[str]) -> Document:
    return {"merge_method": "linear", **_models(models)}


def _models(models: Sequence[str]) -> dict[str, Any]:
    return {"models": [{"model": model} for model in models], "parameters": {"weight": 1.0}}


def _weighted(space: Space, models: Sequence[str], shares: Vector) -> Document:
    """A weighted average whose weights (groups, models) differ from group to group."""
    return {
        "merge_method": "linear",
        "models": [
            {"model": model, "parameters": {"weight": space.by_group(shares[:, place])}}
            for place, model in enumerate(models)
        ],
    }
