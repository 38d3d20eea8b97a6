"""What there is: every session outside the trash, its size on disk, and what protects it.

A survey only looks. It costs a fixed number of queries and one walk through the folders, so a screen can
take it once and try many policies on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forge import locks
from forge.errors import ForgeError
from forge.home import Home, is_id
from forge.registry import CandidateRow, Registry, SessionRow, State, cleanup
from forge.retention import folders

RESUMED_FROM_CHECKPOINT = frozenset({State.STOPPED, State.INTERRUPTED})


@dataclass(frozen=True)
class Subject:
    """One session as cleanup sees it."""

    row: CandidateRow
    bytes: int = 0
    """What its folder takes; 0 where the folder is gone."""
    has_checkpoint: bool = False
    """Whether a checkpoint is recorded or lies on disk."""
    leased: bool = False
    exported: bool = False
    problem: str | None = None
    """Why its folder must not be touched at all."""

    @property
    def session(self) -> SessionRow:
        """The session's row."""
        return self.row.session


@dataclass(frozen=True)
class Survey:
    """All sessions outside the trash, and which descends from which."""

    subjects: tuple[Subject, ...]
    parents: Mapping[str, frozenset[str]]
    """By session: the sessions in which models of its own have parents."""


def survey(home: Home, registry: Registry) -> Survey:
    """Look at every session."""
    parents: dict[str, set[str]] = {}
    for child, parent in registry.fetch(cleanup.lineage()):
        parents.setdefault(child, set()).add(parent)
    return Survey(
        tuple(look(home, row) for row in registry.fetch(cleanup.candidates())),
        {child: frozenset(of) for child, of in parents.items()},
    )


def look(home: Home, row: CandidateRow) -> Subject:
    """One session and its folder."""
    if not is_id(row.session.id):
        return Subject(row, problem="its id is not one that Forge makes")
    paths, has_checkpoint = home.session(row.session.id), row.has_checkpoint
    try:
        if not folders.is_there(paths.root):
            # Only its rows are left; they may go like any other session's.
            return Subject(row, has_checkpoint=has_checkpoint)
        folders.check(paths.root)
        if not has_checkpoint and row.session.state in RESUMED_FROM_CHECKPOINT:
            has_checkpoint = folders.has_checkpoint(paths.root)
        return Subject(
            row,
            folders.measure(paths.root).bytes,
            has_checkpoint,
            leased=locks.is_held(paths.lease),
            exported=locks.is_used(paths.root),
        )
    except ForgeError as error:
        return Subject(row, problem=str(error).rstrip("."))
    except OSError as error:
        return Subject(row, problem=f"{error.filename or paths.root}: {error.strerror}")
