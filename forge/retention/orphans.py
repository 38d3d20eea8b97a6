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
    folder = paths.models
    # Never through a link: what it leads to is not Forge's to delete.
    entries = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    return [entry for entry in entries if entry.name not in known and _is_orphan(entry, phases)]


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
    try:
        return json.loads(read_plain(path / CARD, _MOST_BYTES, follow=False))["phase"] in phases
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # Not one of ours, or not whole: it is not deleted on a guess.
        return False
