"""Values of parameters as a recipe writes them: one value, a gradient over the layers, or by filter.

Read as mergekit reads them: the first entry whose filter is part of the tensor's name counts, and a list of
numbers is interpolated from the first layer to the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forge.merge.methods import Method
from forge.merge.parameters import Parameter, shown

Problem = tuple[str, str]
Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """One alternative of a setting."""

    filter: str | None
    values: tuple[Any, ...]
    """One value, or the points of a gradient."""

    def applies(self, tensor: str) -> bool:
        """Whether it is meant for a tensor."""
        return self.filter in (None, "*") or (self.filter or "") in tensor

    def at(self, t: float) -> Any:
        """The value at a depth between 0, the first layer, and 1, the last."""
        last = len(self.values) - 1
        place = t * last
        if isinstance(self.values[0], bool | str):
            return self.values[int(place)]
        left = int(place)
        right = min(last, left + 1)
        return (1.0 - (place - left)) * self.values[left] + (place - left) * self.values[right]


Setting = tuple[Choice, ...]
Settings = Mapping[str, Setting]


def read_settings(
    raw: Raw | None, method: Method, place: str, *, of_model: bool
) -> tuple[Settings, list[Problem]]:
    """The settings of one `parameters` section, and what is wrong with it.

    Args:
        raw: the section as YAML gave it.
        method: whose parameters they are.
        place: key of the section, for messages.
        of_model: the section belongs to one model, so only parameters for each model may stand there.
    """
    settings: dict[str, Setting] = {}
    problems: list[Problem] = []
    for name, value in (raw or {}).items():
        key = f"{place}.{shown(name, quote=False)}"
        parameter = method.parameter(str(name))
        if parameter is None:
            known = ", ".join(p.name for p in method.parameters)
            problems.append((key, f"{method.name} has no such parameter; it has {known}"))
        elif of_model and not parameter.per_model:
            problems.append((key, "holds for all models together: move it to the recipe's own parameters"))
        else:
            setting, found = _setting(value, parameter, key)
            settings[parameter.name] = setting
            problems += found
    return settings, problems


def is_gradient(settings: Settings) -> bool:
    """Whether any value depends on the layer."""
    return any(len(choice.values) > 1 for setting in settings.values() for choice in setting)


def resolve(parameter: Parameter, sections: Iterable[Settings], tensor: str, t: float) -> Any:
    """The value for a tensor: of the first section that has one, else the default."""
    for section in sections:
        for choice in section.get(parameter.name, ()):
            if choice.applies(tensor):
                return choice.at(t)
    return parameter.default


def _setting(raw: Any, parameter: Parameter, key: str) -> tuple[Setting, list[Problem]]:
    if isinstance(raw, Mapping) or (isinstance(raw, list) and any(isinstance(item, Mapping) for item in raw)):
        items = raw if isinstance(raw, list) else [raw]
        several = [
            _choice(item, parameter, f"{key}[{i}]" if isinstance(raw, list) else key)
            for i, item in enumerate(items)
        ]
        return tuple(choice for choice, _ in several if choice), [p for _, found in several for p in found]
    values, problems = _values(raw, parameter, key)
    return (Choice(None, values),) if values else (), problems


def _choice(raw: Any, parameter: Parameter, key: str) -> tuple[Choice | None, list[Problem]]:
    if not isinstance(raw, Mapping):
        return None, [(key, f"expected filter and value, got {shown(raw)}")]
    problems = [
        (f"{key}.{shown(name, quote=False)}", "unknown key; filter and value are known")
        for name in raw
        if name not in ("filter", "value")
    ]
    name = raw.get("filter")
    if name is not None and not isinstance(name, str):
        problems.append((f"{key}.filter", f"expected a part of a tensor's name, got {shown(name)}"))
    if "value" not in raw:
        return None, [*problems, (f"{key}.value", "is missing")]
    values, found = _values(raw["value"], parameter, f"{key}.value")
    return (Choice(name if isinstance(name, str) else None, values) if values else None), problems + found


def _values(raw: Any, parameter: Parameter, key: str) -> tuple[tuple[Any, ...], list[Problem]]:
    items = raw if isinstance(raw, list) else [raw]
    if not items:
        return (), [(key, "an empty list of values")]
    values = tuple(_number(item) if parameter.kind == "number" else item for item in items)
    problems = []
    for i, value in enumerate(values):
        if sentence := parameter.problem(value):
            problems.append((f"{key}[{i}]" if isinstance(raw, list) else key, sentence))
    return (() if problems else values), problems


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-3 as a string, and a whole number may be too long for a float.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return value
