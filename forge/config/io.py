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
from forge.config.models import PipelineConfig, Settings
from forge.errors import ConfigError, NotFoundError

T = TypeVar("T", bound=Settings)

MAX_CONFIG_BYTES = 1 << 20
_DEPTH = 3
"""How deep groups of settings are nested."""
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


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
    if not path.is_file():
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
    return parse_yaml(read_text(path), str(path), overrides)


def read_text(path: Path) -> str:
    """The text of a file of settings.

    Raises:
        ConfigError: it cannot be read, or is no such file.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, so not a Forge configuration")
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def parse_yaml(text: str, where: str, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Parse and check YAML text; `where` names it in messages."""
    return validate(apply_overrides(parse_mapping(text, where), overrides), where)


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """Keys and values of YAML text, not looked at yet.

    Raises:
        ConfigError: it is something else.
    """
    try:
        data = _load(text)
    except _NOT_YAML as error:
        raise ConfigError(f"{where}: not valid YAML: {_one_line(error)}") from error
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
        raise ConfigError(_listing(where, problems))
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
        raise ConfigError(_listing(where, problems)) from error


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with each `a.b=value` set; the value is YAML, so `null` and `1e-3` work."""
    result = _copy(data)
    for override in overrides:
        key, separator, raw = override.partition("=")
        if not separator or not key:
            raise ConfigError(f'override "{override}": expected key=value, for example pretrain.steps=200')
        try:
            value = _load(raw)
        except _NOT_YAML as error:
            raise ConfigError(f'override "{override}": {_one_line(error)}') from error
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


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: one of the two would be dropped in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(text: str) -> Any:
    # S506 knows only the loaders of yaml itself; this one is its safe loader and refuses more.
    return yaml.load(text, _Loader)


def _copy(data: Mapping[str, Any], depth: int = _DEPTH) -> dict[str, Any]:
    """A copy as deep as settings go: what an alias repeats below that would grow without bound."""
    return {k: _copy(v, depth - 1) if isinstance(v, Mapping) and depth else v for k, v in data.items()}


def _number(text: str) -> str | float:
    # YAML 1.1 reads "1e-3" as a string; people type it for learning rates.
    return float(text) if _EXPONENT.fullmatch(text) else text


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    # Shortened: what stands there may be a whole document.
    return f"{error['msg']} (got {reprlib.repr(error['input'])})" if "input" in error else str(error["msg"])


def _listing(where: str, problems: Sequence[tuple[str, str]]) -> str:
    head = f"{where}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return "\n".join([head, *(f"  {place}: {sentence}" for place, sentence in problems)])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
