"""YAML that a person wrote, or somebody else: read with bounds, so that it is read or refused soon.

No text makes the program run for long, take much memory or fail with anything but a `ConfigError`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from forge.errors import ConfigError
from forge.pickles import pickle_at
from forge.reading import read_plain
from forge.text import clean

MAX_BYTES = 1 << 18
"""PyYAML takes seconds for more, and nobody writes as much."""
_MOST_DIGITS = 100
_MOST_PROBLEMS = 100
_LONGEST_PLACE = 100
_LONGEST_SENTENCE = 500
_MOST_VALUES = 100_000
"""With every alias written out; few files of this size have half as many without one."""
# PyYAML converts what a tag announces without looking: `!!int ""` raises IndexError, `!!bool x` KeyError.
_NOT_YAML = (
    yaml.YAMLError, ValueError, LookupError, ArithmeticError, AttributeError, TypeError
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
    except RecursionError as error:
        raise ConfigError(f"{where}: not valid YAML: nested too deep") from error
    except _NOT_YAML as error:
        raise ConfigError(f"{where}: not valid YAML: {_what_yaml_says(error)}") from error


def listing(where: str, problems: Sequence[tuple[str, str]]) -> str:
    """What is wrong with a document: each place and sentence on a line, as much as a person would read."""
    head = f"{where}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
    shown = [
        f"  {clean(place):.{_LONGEST_PLACE}}: {sentence:.{_LONGEST_SENTENCE}}"
        for place, sentence in problems[:_MOST_PROBLEMS]
    ]
    more = len(problems) - len(shown)
    return "\n".join([head, *shown, *([f"  and {more} more"] if more else [])])


class _Loader(yaml.SafeLoader):
    """YAML whose aliases stay small when written out, and in which no key stands twice.

    One of two equal keys would be dropped in silence.
    """

    def get_single_node(self) -> yaml.Node | None:
        """The tree of the document, before anything is made of it."""
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Keys and values, each key once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _count(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """How many values a tree has once every alias and every `<<` is written out; few, or it is refused.

    Who walks through a document walks that far, and a few lines can stand for more than any machine holds.
    """
    if node in known:
        if known[node] == 0:
            raise yaml.composer.ComposerError(None, None, "an alias stands for itself", node.start_mark)
        return known[node]
    known[node] = 0
    total = 1
    if isinstance(node, yaml.CollectionNode):
        for entry in node.value:
            for part in entry if isinstance(entry, tuple) else (entry,):
                total += _count(part, known)
                if total > _MOST_VALUES:
                    raise yaml.composer.ComposerError(
                        None,
                        None,
                        f"over {_MOST_VALUES:,} values, with every alias written out",
                        node.start_mark,
                    )
    known[node] = total
    return total


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
