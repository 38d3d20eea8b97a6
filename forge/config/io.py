"""YAML in and out, presets, overrides and the JSON Schema.

Whatever is wrong with a file, a person gets one `ConfigError` that lists every problem with its place.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from forge.config.check import contradictions
from forge.config.document import listing, load_yaml, read_yaml
from forge.config.models import PipelineConfig, Settings
from forge.errors import ConfigError, NotFoundError
from forge.reading import is_file

T = TypeVar("T", bound=Settings)

_LONGEST = 100
"""Characters of a number."""
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def preset_names() -> list[str]:
    """Names of the presets that come with Forge."""
    folder = resources.files("forge.config").joinpath("presets")
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_config(source: str, overrides: Sequence[str] = ()) -> PipelineConfig:
    """The configuration of a preset name or a YAML file, with `key=value` overrides applied.

    Raises:
        NotFoundError: neither a preset nor a file.
        ConfigError: unreadable, unknown keys, wrong values or contradictions; all of them listed.
    """
    if source in preset_names():
        text = resources.files("forge.config").joinpath("presets", f"{source}.yaml").read_text("utf-8")
        return parse_yaml(text, f"preset {source}", overrides)
    path = Path(source)
    if not is_file(path):
        raise NotFoundError(
            f'no preset and no file "{source}"; presets are {", ".join(preset_names())}. '
            'Write your own with "forge config show tiny > mine.yaml".'
        )
    return read_file(path, overrides)


def read_frozen(path: Path) -> PipelineConfig:
    """The frozen configuration of a session."""
    return read_file(path, ())


def read_file(path: Path, overrides: Sequence[str]) -> PipelineConfig:
    """Parse a configuration file; see `load_config` for the errors."""
    return validate(apply_overrides(read_mapping(path), overrides), str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """Keys and values of a file of settings, not looked at yet.

    Raises:
        ConfigError: it cannot be read, or is no such file.
    """
    try:
        return _mapping(read_yaml(path, "a Forge configuration"), str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def parse_yaml(text: str, where: str, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Parse and check YAML text; `where` names it in messages."""
    return validate(apply_overrides(_mapping(load_yaml(text, where), where), overrides), where)


def _mapping(data: Any, where: str) -> dict[str, Any]:
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected keys and values, found {type(data).__name__}")
    return data


def validate(data: Mapping[str, Any], where: str) -> PipelineConfig:
    """Build the settings and refuse contradictions, reporting every problem at once."""
    config = build(PipelineConfig, data, where)
    problems = contradictions(config)
    if problems:
        raise ConfigError(listing(where, problems))
    return config


def build(model: type[T], data: Mapping[str, Any], where: str) -> T:
    """Settings of any kind from keys and values.

    Raises:
        ConfigError: unknown keys or wrong values; all of them listed.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [(".".join(map(str, e["loc"])) or "(top)", _reason(e)) for e in error.errors()]
        raise ConfigError(listing(where, problems)) from error


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with each `a.b=value` set; the value is YAML, so `null` and `1e-3` work."""
    result = _copy(data)
    for override in overrides:
        key, separator, raw = override.partition("=")
        if not separator or not key:
            raise ConfigError(f'override "{override}": expected key=value, for example pretrain.steps=200')
        value = load_yaml(raw, f'override "{override}"')
        if isinstance(value, str):
            value = _number(value)
        node = result
        *parents, leaf = key.split(".")
        for name in parents:
            child = node.setdefault(name, {})
            if not isinstance(child, dict):
                raise ConfigError(f'override "{override}": {name} is not a group of settings')
            node = child
        node[leaf] = value
    return result


def dump_yaml(config: Settings) -> str:
    """All of some settings as YAML that reads back unchanged."""
    # ASCII only: PyYAML writes some separators of Unicode as they are, and then reads a line end there.
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def json_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file, with every field's documentation."""
    return PipelineConfig.model_json_schema()


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which groups that an alias shares are no longer one."""
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def _number(text: str) -> str | float:
    # YAML 1.1 reads "1e-3" as a string; people type it for learning rates.
    return float(text) if len(text) < _LONGEST and _EXPONENT.fullmatch(text) else text


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    # Shortened: what stands there may be a whole document.
    return f"{error['msg']} (got {reprlib.repr(error['input'])})" if "input" in error else str(error["msg"])
