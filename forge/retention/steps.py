"""Checkpoint folders as names on disk, and their records: which there are, and which count.

What is in a checkpoint is the engine's affair. Here a folder counts if its manifest is there, because that
is written last; what was given up half written or half deleted has a name that says so.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from forge import durable
from forge.home import ID
from forge.registry import Connection, cleanup, edits, fetch, queries

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
"""In the name of what is being written or deleted."""
DAMAGED = "damaged-"
"""How the name begins of what was set aside."""
_NAME = re.compile(r"step-(\d{8,})\Z")
_LEFT = re.compile(rf"step-\d{{8,}}{re.escape(TEMPORARY)}{ID}")
_ASIDE = re.compile(rf"{DAMAGED}{ID}-step-\d{{8,}}")


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step that a folder's name says; -1 for any other name."""
    match = _NAME.match(path.name)
    return int(match[1]) if match else -1


def entries(folder: Path) -> list[Path]:
    """What lies in a phase's folder of checkpoints; nothing where it, or the one above, is a link.

    What a link leads to is not Forge's to judge, to rename or to delete.
    """
    if folder.is_symlink() or folder.parent.is_symlink() or not folder.is_dir():
        return []
    return sorted(folder.iterdir())


def steps_in(folder: Path) -> list[int]:
    """Steps that have a checkpoint folder, newest first, valid or not."""
    return sorted((step for entry in entries(folder) if (step := step_of(entry)) >= 0), reverse=True)


def finished_steps(folder: Path) -> list[int]:
    """Steps whose checkpoint has its manifest, newest first; whether it is whole is known when it is read."""
    return [step for step in steps_in(folder) if is_finished(step_folder(folder, step))]


def is_finished(path: Path) -> bool:
    """Whether a folder has a manifest."""
    return not path.is_symlink() and (path / MANIFEST).exists()


def leftovers(folder: Path) -> list[Path]:
    """Checkpoints that were given up half written or half deleted."""
    return [entry for entry in entries(folder) if _LEFT.fullmatch(entry.name)]


def damaged(folder: Path) -> list[Path]:
    """Checkpoints that were set aside, oldest first."""
    return [entry for entry in entries(folder) if _ASIDE.fullmatch(entry.name)]


def remove_leftovers(folder: Path) -> int:
    """Delete what a killed process left half done (lease holder only); returns how many."""
    left = leftovers(folder)
    for entry in left:
        durable.discard_tree(entry)
    return len(left)


def size(path: Path) -> int:
    """What the record of a checkpoint gives as its bytes: all its files but the manifest."""
    return sum(entry.stat().st_size for entry in path.iterdir() if entry.name != MANIFEST)


def apart(c: Connection, session_id: str, phase: str, folder: Path) -> tuple[list[int], list[int]]:
    """Steps with a record but no checkpoint, and steps with a checkpoint but no record."""
    recorded = {row.step for row in fetch(c, queries.checkpoints(session_id, phase))}
    present = set(finished_steps(folder))
    return sorted(recorded - present), sorted(present - recorded)


def match_records(
    c: Connection, session_id: str, phase: str, root: Path, folder: Path, *, actor: str, why: str
) -> list[int]:
    """Make the registry say what is on disk: a crash between the two left them apart.

    Args:
        c: inside a transaction.
        session_id: the session, whose lease is ours.
        phase: one of its phases.
        root: the session's folder.
        folder: the phase's folder of checkpoints.
        actor: who is written down in the audit for those that are gone.
        why: what became of them.

    Returns:
        The steps whose record is gone, because their checkpoint is.
    """
    gone, unknown = apart(c, session_id, phase, folder)
    rows = {row.step: row for row in fetch(c, queries.checkpoints(session_id, phase))} if gone else {}
    for step in gone:
        edits.forget_checkpoint(c, session_id, phase, step)
        cleanup.add_deletion(
            c, session_id, f"checkpoint {phase} {step} {why}", actor=actor, action="checkpoint",
            now=time.time(), path=rows[step].path, bytes=rows[step].bytes,
        )  # fmt: skip
    for step in unknown:
        path = step_folder(folder, step)
        edits.add_checkpoint(
            c, session_id, phase=phase, step=step, path=str(path.relative_to(root)), bytes=size(path),
            seconds=0.0, now=max((entry.stat().st_mtime for entry in path.iterdir()), default=0.0),
        )  # fmt: skip
    return gone
