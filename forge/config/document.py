"""YAML that a person wrote, or somebody else: read with bounds, so that it is read or refused soon.

No text makes the program run for long, take much memory or fail with anything but a `ConfigError`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from forge.errors import ConfigError
from forge.pickles import pickle_at
from forge.reading import read_plain

MAX_BYTES = 1 << 18
"""PyYAML takes seconds for more, and nobody writes as much."""
_MOST_DIGITS = 100
_MOST_MERGED = 10_000
# PyYAML converts what a tag announces without looking: `!!int ""` raises IndexError, `!!bool x` KeyError.
_NOT_YAML = (
    yaml.YAMLError, ValueError, LookupError, ArithmeticError, AttributeError, TypeError, RecursionError
)  # fmt: skip


def read_yaml(path: Path, what: str) -> Any:
    """The document in a file; `what` is what it should be, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it cannot be read.
    """
    try:
        text = read_plain(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        reason = pickle_at(path) or f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        raise ConfigError(reason) from error
    except OSError as error:
        because = f", so not {what}" if error.errno in (errno.EFBIG, errno.EINVAL) else ""
        raise ConfigError(f"{path}: {error.strerror}{because}") from error
    return load_yaml(text, str(path))


def load_yaml(text: str, where: str) -> Any:
    """The document of a text; `where` names it in messages.

    Raises:
        ConfigError: it is no YAML, or grows beyond bounds.
    """
    try:
        # S506 knows only the loaders of yaml itself; this one is its safe loader and refuses more.
        return yaml.load(text, _Loader)
    except _NOT_YAML as error:
        raise ConfigError(f"{where}: not valid YAML: {_what_yaml_says(error)}") from error


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

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Take in what `<<` names, as long as that does not multiply without bound."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "<< repeats too much", node.start_mark)


def _short(construct: Callable[[_Loader, Any], Any]) -> Callable[[_Loader, Any], Any]:
    """A constructor of numbers that refuses those which take long to compute or cannot be printed."""

    def bounded(loader: _Loader, node: Any) -> Any:
        if len(str(node.value)) > _MOST_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, "a number is too long", node.start_mark)
        return construct(loader, node)

    return bounded


_Loader.add_constructor("tag:yaml.org,2002:int", _short(_Loader.construct_yaml_int))
_Loader.add_constructor("tag:yaml.org,2002:float", _short(_Loader.construct_yaml_float))


def _what_yaml_says(error: Exception) -> str:
    """What is wrong and where, on one line; PyYAML's own text names a string's file twice."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    mark = error.problem_mark or error.context_mark
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    parts = [part for part in (error.context, error.problem) if part]
    return " ".join((", ".join(parts) + where).split())
