"""A recipe: which models are merged, by which method and with which parameters. mergekit's YAML.

A recipe is checked as a whole before a model is looked at: one `ConfigError` lists every problem by its key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from forge.config.document import listing, read_yaml
from forge.errors import ConfigError, NotFoundError
from forge.merge.codec import NAMES
from forge.merge.methods import METHODS, Method
from forge.merge.parameters import REQUIRED, shown
from forge.merge.settings import Problem, Settings, is_gradient, read_settings

_KEYS = (
    "merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source",
    "seed",
)  # fmt: skip
_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "modules": "models of several modules are not merged here",
        "tokenizer": 'vocabularies are not changed here; "tokenizer_source: base" copies the base model\'s',
        "chat_template": "chat templates are copied with the tokenizer, not set",
        "residual_weight": "is not read, by mergekit either",
    }
)


@dataclass(frozen=True)
class Source:
    """A model that goes into a slice."""

    model: str
    """Folder or safetensors file."""
    layers: tuple[int, int] | None = None
    """First layer and the one after the last; None for all."""
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the result, each merged from one layer of every source."""

    sources: tuple[Source, ...]
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe."""

    method: Method
    slices: tuple[Slice, ...]
    base: str | None
    settings: Settings
    dtype: str | None
    """What is written, in safetensors' words; None for what the parents have."""
    seed: int
    document: Mapping[str, Any]
    """The recipe as it was written."""

    @property
    def models(self) -> list[str]:
        """Every model once, the base first."""
        named = [source.model for part in self.slices for source in part.sources]
        return list(dict.fromkeys([self.base, *named] if self.base else named))

    @property
    def needs_layers(self) -> bool:
        """Whether it has to be known which tensor belongs to which layer."""
        every = [self.settings, *(part.settings for part in self.slices)]
        every += [source.settings for part in self.slices for source in part.sources]
        ranges = any(source.layers for part in self.slices for source in part.sources)
        return ranges or any(is_gradient(settings) for settings in every)


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: unreadable, or something in it is wrong; everything that is wrong is listed.
    """
    try:
        document = read_yaml(path, "a recipe")
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such recipe") from error
    return check_recipe(document, str(path))


def check_recipe(document: Any, where: str = "recipe") -> Recipe:
    """The recipe of a document; `where` names it in messages.

    Raises:
        ConfigError: something is wrong; everything that is wrong is listed.
    """
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: expected keys and values, found {shown(document)}")
    check = _Check()
    recipe = check.recipe(document)
    if check.problems or recipe is None:
        raise ConfigError(listing(where, check.problems))
    return recipe


class _Check:
    """Goes through a document once and remembers whatever is wrong."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def recipe(self, document: Mapping[Any, Any]) -> Recipe | None:
        """The recipe, as far as it can be read."""
        self._keys(document, "", _KEYS)
        method = self._method(document.get("merge_method"))
        base = self._text(document, "base_model", "", needed=False)
        dtype = self._dtype(document)
        seed = self._seed(document.get("seed", 0))
        if document.get("tokenizer_source") not in (None, "base", "copy"):
            self._say("tokenizer_source", "expected base or copy: models of one tokenizer are merged here")
        elif document.get("tokenizer_source") == "base" and base is None:
            self._say(
                "tokenizer_source", "there is no base_model to take it from; leave it out or write copy"
            )
        settings = self._settings(document, "", method, of_model=False)
        slices = self._slices(document, method, base)
        if method is None:
            return None
        for number, part in enumerate(slices):
            self._agree(part, method, base, "models" if "models" in document else f"slices[{number}].sources")
            self._required(part, method, base, settings)
        return Recipe(method, tuple(slices), base, settings, dtype, seed, dict(document))

    def _slices(self, document: Mapping[Any, Any], method: Method | None, base: str | None) -> list[Slice]:
        if ("models" in document) == ("slices" in document):
            self._say("models", "give either models or slices")
            return []
        if "slices" in document:
            parts = self._list(document, "slices", "")
            return [self._slice(part, f"slices[{number}]", method, base) for number, part in enumerate(parts)]
        models = self._list(document, "models", "")
        found = [self._source(item, f"models[{i}]", method, base, False) for i, item in enumerate(models)]
        sources = [source for source in found if source]
        listed = [source.model for source in sources]
        if base and base not in listed and method and method.base != "none":
            sources.append(Source(base))
        return [Slice(tuple(sources))]

    def _slice(self, part: Any, key: str, method: Method | None, base: str | None) -> Slice:
        if not isinstance(part, Mapping):
            self._say(key, f"expected sources, found {shown(part)}")
            return Slice(())
        self._keys(part, f"{key}.", ("sources", "parameters"))
        items = self._list(part, "sources", f"{key}.")
        found = [
            self._source(item, f"{key}.sources[{i}]", method, base, True) for i, item in enumerate(items)
        ]
        sources = tuple(source for source in found if source)
        lengths = {source.layers[1] - source.layers[0] for source in sources if source.layers}
        if len(lengths) > 1:
            self._say(f"{key}.sources", f"all need a layer_range of one length, these have {sorted(lengths)}")
        return Slice(sources, self._settings(part, f"{key}.", method, of_model=False))

    def _source(
        self, item: Any, key: str, method: Method | None, base: str | None, sliced: bool
    ) -> Source | None:
        if not isinstance(item, Mapping):
            self._say(key, f"expected a model, found {shown(item)}")
            return None
        self._keys(
            item, f"{key}.", ("model", "layer_range", "parameters") if sliced else ("model", "parameters")
        )
        model = self._text(item, "model", f"{key}.", needed=True)
        layers = self._layer_range(item.get("layer_range"), f"{key}.layer_range") if sliced else None
        settings = self._settings(item, f"{key}.", method, of_model=True)
        if settings and model == base and method and method.base != "none":
            self._say(f"{key}.parameters", f"{method.name} has no use for parameters of the base model")
        return Source(model, layers, settings) if model else None

    def _agree(self, part: Slice, method: Method, base: str | None, key: str) -> None:
        models = [source.model for source in part.sources]
        for model in [model for model, times in Counter(models).items() if times > 1]:
            self._say(key, f"{model} is listed twice")
        others = len(models)
        if method.base == "none":
            if base and base not in models:
                self._say(
                    "base_model", f"{method.name} has no base; list {base} among the models or leave it out"
                )
        elif base is None:
            if method.base == "required":
                self._say("base_model", f"is missing; {method.name} needs one")
        elif base in models:
            others -= 1
        else:
            self._say(key, f"the base model {base} is missing")
        if others < 1:
            self._say(key, "no model to merge")
        elif method.most_models is not None and others > method.most_models:
            besides = "" if method.base == "none" else " besides the base"
            self._say(key, f"{method.name} takes {method.most_models} model{besides}, these are {others}")

    def _required(self, part: Slice, method: Method, base: str | None, settings: Settings) -> None:
        for parameter in method.parameters:
            name = parameter.name
            if parameter.default is not REQUIRED or name in settings or name in part.settings:
                continue
            if not parameter.per_model:
                self._say(f"parameters.{name}", f"is missing; {method.name} needs it")
                continue
            for source in part.sources:
                if name not in source.settings and (source.model != base or method.base == "none"):
                    self._say(f"parameters.{name}", f"is missing for {source.model}")

    def _method(self, name: Any) -> Method | None:
        if isinstance(name, str) and name in METHODS:
            return METHODS[name]
        known = ", ".join(METHODS)
        self._say("merge_method", f"is missing; known are {known}" if name is None else
                  f"no method {shown(name)}; known are {known}")  # fmt: skip
        return None

    def _dtype(self, document: Mapping[Any, Any]) -> str | None:
        dtype = None
        for key in ("dtype", "out_dtype"):
            name = document.get(key)
            if name is not None and (not isinstance(name, str) or name not in NAMES):
                self._say(key, f"expected float32, float16 or bfloat16, found {shown(name)}")
            elif name is not None:
                dtype = NAMES[name]
        return dtype

    def _seed(self, seed: Any) -> int:
        if type(seed) is not int or not 0 <= seed < 2**63:
            self._say("seed", f"expected a whole number from 0, found {shown(seed)}")
            return 0
        return seed

    def _layer_range(self, value: Any, key: str) -> tuple[int, int] | None:
        if (
            not isinstance(value, Sequence)
            or len(value) != 2
            or any(type(item) is not int for item in value)
            or not 0 <= value[0] < value[1]
        ):
            self._say(key, f"expected [first, last + 1], found {shown(value)}")
            return None
        return value[0], value[1]

    def _settings(
        self, section: Mapping[Any, Any], place: str, method: Method | None, *, of_model: bool
    ) -> Settings:
        raw = section.get("parameters")
        if raw is not None and not isinstance(raw, Mapping):
            self._say(f"{place}parameters", f"expected names and values, found {shown(raw)}")
        elif raw and method:
            settings, problems = read_settings(raw, method, f"{place}parameters", of_model=of_model)
            self.problems += problems
            return settings
        return {}

    def _text(self, section: Mapping[Any, Any], name: str, place: str, *, needed: bool) -> str | None:
        value = section.get(name)
        if value is None and not needed:
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            self._say(f"{place}{name}", f"expected the path of a model, found {shown(value)}")
            return None
        return value

    def _list(self, section: Mapping[Any, Any], name: str, place: str) -> list[Any]:
        value = section.get(name)
        if not isinstance(value, list) or not value:
            self._say(f"{place}{name}", f"expected a list, found {shown(value)}")
            return []
        return value

    def _keys(self, section: Mapping[Any, Any], place: str, known: Sequence[str]) -> None:
        for name in section:
            if name not in known:
                reason = _REFUSED.get(name) if isinstance(name, str) else None
                self._say(
                    f"{place}{shown(name, quote=False)}",
                    reason or f"unknown key; known are {', '.join(known)}",
                )

    def _say(self, key: str, what: str) -> None:
        self.problems.append((key, what))
