"""Models on disk of which the registry does not speak: a phase was killed before it could record them.

Only what certainly is one is deleted: half written, or whole and made by a phase that was never completed.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from forge import durable
from forge.home import SessionPaths, is_id
from forge.reading import read_plain

CARD = "card.json"
_MOST_BYTES = 1 << 24
TEMPORARY = ".tmp"
"""The end of the name of what is being written or deleted."""


def found(paths: SessionPaths, known: Collection[str], phases: Collection[str]) -> list[Path]:
    """Models in a session's folder that are half written, or not known and made by one of `phases`."""
    return [entry for entry in _entries(paths) if entry.name not in known and _is_orphan(entry, phases)]


def unrecorded(paths: SessionPaths, known: Collection[str], completed: Collection[str]) -> list[Path]:
    """Whole models that are not known, of completed phases or with nothing that says of which."""
    return [
        entry
        for entry in _entries(paths)
        if entry.name not in known
        and is_id(entry.name)
        and not entry.is_symlink()
        and ((phase := _phase(entry)) is None or phase in completed)
    ]


def remove(path: Path) -> None:
    """Delete an orphan; half deleted, it is still known as one."""
    if path.name.endswith(TEMPORARY):
        durable.discard_tree(path)
    else:
        durable.retire_tree(path, path.name + TEMPORARY)


def _is_orphan(path: Path, phases: Collection[str]) -> bool:
    if path.is_symlink() or not is_id(path.name.removesuffix(TEMPORARY)):
        return False  # a stranger's, however it is called
    if path.name.endswith(TEMPORARY):
        return True
    # Not one of ours, or not whole: it is not deleted on a guess.
    return _phase(path) in phases


def _entries(paths: SessionPaths) -> list[Path]:
    folder = paths.models
    # Never through a link: what it leads to is not Forge's to delete.
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _phase(path: Path) -> str | None:
    """The phase that made a model, by its card; none where that does not say."""
    try:
        return str(json.loads(read_plain(path / CARD, _MOST_BYTES, follow=False))["phase"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
