"""Recipes carried out in memory, one after the other, tensor by tensor: candidates are made and forgotten.

A later recipe may name the result of an earlier one as if it were a model. Of every parent one tensor is in
memory, and of every recipe its result for that tensor; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from forge.errors import MergeError
from forge.merge.blocks import Array
from forge.merge.checkpoint import Checkpoint
from forge.merge.group import Group
from forge.merge.plan import Planned, make_plan
from forge.merge.recipe import Recipe, check_recipe

STAGE = "name"
"""Key of a recipe in a composition: what later ones call its result."""


@dataclass(frozen=True)
class _Stage:
    name: str
    recipe: Recipe
    tensors: Mapping[str, Planned]


class Parents:
    """Open parent models by the names that recipes give them."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """Open them and compare them.

        Raises:
            MergeError: one cannot be read, or they are not of one architecture and tokenizer; what does not
                fit is listed by tensor and key.
        """
        self._held = ExitStack()
        try:
            self._checkpoints = {
                name: self._held.enter_context(Checkpoint(path)) for name, path in folders.items()
            }
            everything: list[Mapping[str, Any]] = [
                {"merge_method": "linear", "models": [{"model": name} for name in folders],
                 "parameters": {"weight": 1.0}}
            ]  # fmt: skip
            (stage,) = self._stages(everything)
        except BaseException:
            self.close()
            raise
        self._sizes = {name: int(np.prod(t.shape, dtype=np.int64)) for name, t in stage.tensors.items()}
        size = max(self._sizes.values(), default=0)
        self._buffers: dict[str, Array] = {name: np.empty(size, np.float32) for name in folders}

    def __enter__(self) -> Parents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go."""
        self._held.close()

    @property
    def stack(self) -> tuple[str, int] | None:
        """See `Checkpoint.stack`; all parents have the same."""
        return next(iter(self._checkpoints.values())).stack()

    def require_finite(self) -> None:
        """Read everything once.

        Raises:
            MergeError: a tensor holds NaN or infinite values; it and its file are named.
        """
        for model in self._checkpoints:
            for tensor in self._sizes:
                self._read(model, tensor)

    def compose(self, recipes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Array]]:
        """Every tensor of the last recipe's result, by name; each is the caller's to keep, finite or not.

        Raises:
            MergeError: the recipes do not fit the parents, or a parent's weights are not finite.
            ConfigError: something in a recipe is wrong; everything that is wrong is listed.
        """
        stages = self._stages(recipes)
        for tensor in self._sizes:
            read: dict[str, Array] = {}
            for stage in stages:
                planned, names = stage.tensors[tensor], stage.recipe.models
                for model, _ in planned.places:
                    if names[model] not in read:
                        read[names[model]] = self._read(names[model], tensor).reshape(planned.shape)
                inputs = [read[names[model]] for model, _ in planned.inputs]
                base = None if planned.base is None else read[names[planned.base[0]]]
                group = Group(tensor, inputs, base, stage.recipe.seed)
                with np.errstate(over="ignore", invalid="ignore"):
                    read[stage.name] = stage.recipe.method.merge(group, **planned.values)
            yield tensor, read[stages[-1].name]

    def _read(self, model: str, tensor: str) -> Array:
        out = self._buffers[model][: self._sizes[tensor]]
        self._checkpoints[model].file_of(tensor).read_into(tensor, out)
        return out

    def _stages(self, recipes: Sequence[Mapping[str, Any]]) -> list[_Stage]:
        stages: list[_Stage] = []
        known = dict(self._checkpoints)
        template = next(iter(self._checkpoints.values()))
        for number, document in enumerate(recipes):
            name = str(document.get(STAGE, f"stage {number + 1}"))
            recipe = check_recipe({key: value for key, value in document.items() if key != STAGE}, name)
            if missing := [model for model in recipe.models if model not in known]:
                raise MergeError(f"{name}: there is no model {missing[0]}; there are {', '.join(known)}")
            # The result of a stage has the tensors of its parents.
            plan = make_plan(recipe, [known[model] for model in recipe.models])
            tensors = {planned.name: planned for planned in plan.tensors}
            if stages and tensors.keys() != stages[0].tensors.keys():
                raise MergeError(f"{name}: its layers are not those of its models, so it has no place here")
            if buffers := [planned.name for planned in plan.tensors if planned.exact]:
                raise MergeError(
                    f"{buffers[0]} is a buffer of {tensors[buffers[0]].dtype}; weights are merged"
                )
            stages.append(_Stage(name, recipe, tensors))
            known[name] = template
        return stages
