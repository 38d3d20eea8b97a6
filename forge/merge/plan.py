"""From a recipe and its open parents to one line for every tensor of the result.

Whatever can be known without reading a weight is checked here, so a merge that begins does not fail for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forge.errors import ConfigError, MergeError
from forge.header import Entry
from forge.merge.checkpoint import Checkpoint, is_embedding, layer_name, layer_of
from forge.merge.codec import EXACT, promote
from forge.merge.parameters import REQUIRED
from forge.merge.recipe import Recipe, Slice, Source
from forge.merge.settings import resolve

_SHOWN = 10
_ALIKE = (
    "model_type", "architectures", "hidden_act", "hidden_activation", "num_attention_heads", "n_heads",
    "n_head", "num_key_value_heads", "head_dim", "tie_word_embeddings", "vocab_size", "qk_norm", "sub_norm",
    "window",
)  # fmt: skip
"""Keys of config.json that make another function of the same weights."""

Place = tuple[int, str]
"""A parent and the name of a tensor in it."""


@dataclass(frozen=True)
class Planned:
    """A tensor of the result."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    inputs: tuple[Place, ...]
    """In the order of the models; a base that is no model of the method is not among them."""
    base: Place | None
    values: Mapping[str, Any]
    """Arguments of the method."""

    @property
    def exact(self) -> bool:
        """A buffer, which is copied and never computed with."""
        return self.dtype in EXACT

    @property
    def places(self) -> tuple[Place, ...]:
        """Everything that is read for it."""
        return self.inputs if self.base is None else (*self.inputs, self.base)


@dataclass
class Plan:
    """Every tensor of the result in order, and where its layers came from."""

    tensors: list[Planned] = field(default_factory=list)
    layers: list[int] | None = None
    """Layers of the reference parent whose settings the result's layers take; None if they are its own."""


def make_plan(recipe: Recipe, parents: Sequence[Checkpoint]) -> Plan:
    """The plan of a merge; `parents` are the open `recipe.models`.

    Raises:
        MergeError: the parents do not fit each other or the recipe; what does not fit is listed.
        ConfigError: a parameter has no value for some tensor, or values that do not go together.
    """
    problems = list(_differences(parents))
    planner = _Planner(recipe, parents)
    plan = planner.plan()
    problems += planner.problems
    if problems:
        raise MergeError(_listing("the models cannot be merged", problems))
    if planner.faults:
        raise ConfigError(_listing("the recipe does not fit the models", list(dict.fromkeys(planner.faults))))
    return plan


def _differences(parents: Sequence[Checkpoint]) -> Iterator[str]:
    """What makes parents two different models although their tensors may have the same shapes."""
    first = parents[0]
    vocabulary = first.vocabulary
    for other in parents[1:]:
        if first.config is not None and other.config is not None:
            for key in _ALIKE:
                a, b = first.config.get(key), other.config.get(key)
                if a != b:
                    yield f"config.json: {key} is {a!r:.60} in {first.path}, {b!r:.60} in {other.path}"
        if first.card.get("quantisation") != other.card.get("quantisation"):
            yield f"card.json: quantisation is not the same in {first.path} and {other.path}"
        theirs = other.vocabulary
        if vocabulary is not None and theirs is not None and vocabulary != theirs:
            where = _first_difference(vocabulary, theirs)
            yield f"tokenizer.json: {where} is not the same in {first.path} and {other.path}"


def _first_difference(a: Any, b: Any, place: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys(), key=str):
            if key not in a or key not in b or a[key] != b[key]:
                return _first_difference(a.get(key), b.get(key), f"{place}.{key}" if place else str(key))
    return place


class _Parts:
    """The tensors of one parent: those outside the layers, and those of each by what follows its number."""

    def __init__(self, parent: Checkpoint, by_layer: bool) -> None:
        self.path = parent.path
        self.entries = parent.tensors
        stack = parent.stack() if by_layer else None
        self.prefix, length = stack or ("", 0)
        self.known = stack is not None or not by_layer
        self.outside: dict[str, str] = {}
        self.layers: list[dict[str, str]] = [{} for _ in range(length)]
        for name in self.entries:
            place = layer_of(name, self.prefix) if stack else None
            if place is None:
                self.outside[name] = name
            else:
                self.layers[place[0]][place[1]] = name


class _Planner:
    def __init__(self, recipe: Recipe, parents: Sequence[Checkpoint]) -> None:
        self._recipe = recipe
        self._parts = [_Parts(parent, recipe.needs_layers) for parent in parents]
        self._index = {model: i for i, model in enumerate(recipe.models)}
        self.problems: list[str] = []
        """Faults of the parents."""
        self.faults: list[str] = []
        """Faults of the recipe that only show beside the parents."""

    def plan(self) -> Plan:
        """The plan, as far as it can be made; nothing in it counts if there are problems or faults."""
        plan, slices = Plan(), self._recipe.slices
        self._check_layers()
        if self.problems or self.faults:
            return plan
        if not self._recipe.needs_layers:
            plan.tensors += self._merge(slices[0], 0.0, lambda source: self._of(source).outside)
            return plan
        plan.layers = []
        first, last = slices[0], slices[-1]
        plan.tensors += self._outside(first, is_embedding)
        for part in slices:
            starts, length = self._ranges(part)
            for offset in range(length):
                # As mergekit has it: a single layer stands at the end of a gradient.
                t = offset / (length - 1) if length > 1 else 1.0
                layers = {
                    source.model: start + offset for source, start in zip(part.sources, starts, strict=True)
                }
                plan.tensors += self._layer(part, t, layers, len(plan.layers))
                plan.layers.append(layers[self._template(part).model])
        plan.tensors += self._outside(last, lambda name: not is_embedding(name))
        return plan

    def _check_layers(self) -> None:
        for parts in self._parts:
            if not parts.known:
                self.problems.append(
                    f"{parts.path}: which tensors are its layers cannot be told from their names, "
                    "so slices and gradients cannot be used"
                )
        for number, part in enumerate(self._recipe.slices):
            for source in part.sources:
                have = len(self._of(source).layers)
                if source.layers and self._of(source).known and source.layers[1] > have:
                    self.faults.append(
                        f"slices[{number}]: layer_range {list(source.layers)}, but {source.model} has "
                        f"{have} layers"
                    )
            lengths = {len(self._of(source).layers) for source in part.sources if source.layers is None}
            if len(lengths) > 1:
                self.problems.append(f"the models have different numbers of layers: {sorted(lengths)}")

    def _of(self, source: Source) -> _Parts:
        return self._parts[self._index[source.model]]

    def _template(self, part: Slice) -> Source:
        """The source whose names and shapes the others have to match."""
        return next((source for source in part.sources if source.model == self._recipe.base), part.sources[0])

    def _ranges(self, part: Slice) -> tuple[list[int], int]:
        ranges = [source.layers or (0, len(self._of(source).layers)) for source in part.sources]
        return [start for start, _ in ranges], ranges[0][1] - ranges[0][0]

    def _outside(self, part: Slice, wanted: Callable[[str], bool]) -> Iterator[Planned]:
        def names(source: Source) -> dict[str, str]:
            return {name: name for name in self._of(source).outside if wanted(name)}

        return self._merge(part, 0.0, names)

    def _layer(self, part: Slice, t: float, layers: Mapping[str, int], number: int) -> Iterator[Planned]:
        prefix = self._of(self._template(part)).prefix
        return self._merge(
            part, t, lambda source: self._of(source).layers[layers[source.model]],
            lambda rest: layer_name(prefix, number, rest),
        )  # fmt: skip

    def _merge(
        self,
        part: Slice,
        t: float,
        names: Callable[[Source], Mapping[str, str]],
        renamed: Callable[[str], str] = str,
    ) -> Iterator[Planned]:
        """One planned tensor for each that the template has, where all sources have it alike."""
        template = self._template(part)
        wanted = names(template)
        found = {source.model: names(source) for source in part.sources}
        for source in part.sources:
            have = found[source.model]
            mine, theirs = self._of(template).path, self._of(source).path
            self.problems += [
                f"{theirs} lacks {wanted[key]}, which {mine} has" for key in wanted if key not in have
            ]
            self.problems += [
                f"{theirs} has {have[key]}, which {mine} lacks" for key in have if key not in wanted
            ]
        for key, name in wanted.items():
            places = {
                source.model: (self._index[source.model], found[source.model][key])
                for source in (template, *part.sources)
                if key in found[source.model]
            }
            entries = {model: self._parts[i].entries[tensor] for model, (i, tensor) in places.items()}
            if len(places) == len(part.sources) and self._alike(name, entries):
                yield self._planned(part, renamed(key), places, entries, t)

    def _alike(self, name: str, entries: Mapping[str, Entry]) -> bool:
        (first, entry), *others = entries.items()
        alike = True
        for model, other in others:
            if other.shape != entry.shape:
                self.problems.append(
                    f"{name} is {list(entry.shape)} in {first}, {list(other.shape)} in {model}"
                )
                alike = False
            elif other.dtype != entry.dtype and (other.dtype in EXACT or entry.dtype in EXACT):
                self.problems.append(f"{name} is {entry.dtype} in {first}, {other.dtype} in {model}")
                alike = False
        return alike

    def _planned(
        self, part: Slice, name: str, places: Mapping[str, Place], entries: Mapping[str, Entry], t: float
    ) -> Planned:
        method, base = self._recipe.method, self._recipe.base
        apart = base is not None and method.base != "none"
        models = [source for source in part.sources if not (apart and source.model == base)]
        stored = promote({entry.dtype for entry in entries.values()})
        dtype = stored if stored in EXACT else self._recipe.dtype or stored
        shape = next(iter(entries.values())).shape
        inputs = tuple(places[source.model] for source in models)
        values = {} if stored in EXACT else self._values(part, models, inputs, name, t)
        return Planned(name, dtype, shape, inputs, places[base] if apart and base else None, values)

    def _values(
        self, part: Slice, models: Sequence[Source], inputs: Sequence[Place], name: str, t: float
    ) -> dict[str, Any]:
        shared = [part.settings, self._recipe.settings]
        values: dict[str, Any] = {}
        for parameter in self._recipe.method.parameters:
            if parameter.keyword == "-":
                continue
            if parameter.per_model:
                found = [
                    resolve(parameter, [source.settings, *shared], tensor, t)
                    for source, (_, tensor) in zip(models, inputs, strict=True)
                ]
            else:
                found = [resolve(parameter, shared, name, t)]
            if any(value is REQUIRED for value in found):
                self.faults.append(f"parameters.{parameter.name}: no filter gives {name} a value")
                return {}
            values[parameter.keyword] = found if parameter.per_model else found[0]
        if sentence := self._recipe.method.check(values):
            self.faults.append(f"parameters: {sentence}")
        return values


def _listing(head: str, problems: Sequence[str]) -> str:
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return "\n".join([f"{head}:", *(f"  {problem}" for problem in [*problems[:_SHOWN], *more])])
