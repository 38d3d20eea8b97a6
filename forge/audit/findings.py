"""What an audit says: findings by kind, each with the remedy, and how much it looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

Progress = Callable[[int, int], None]
"""Is given the bytes read so far and those to read."""

REPAIR = "forge audit --repair"


class Kind(StrEnum):
    """Which promise is broken."""

    REGISTRY = "registry"
    """The registry is damaged, or contradicts itself."""
    FOLDER = "folder"
    """A session's folder is not where its record says, or has none."""
    SETTINGS = "settings"
    """The settings of the home cannot be read."""
    OWNER = "owner"
    """A session is said to run, and nobody holds its lease; or nobody could."""
    CHECKPOINT = "checkpoint"
    """A recorded checkpoint cannot be loaded, or one on disk has no record."""
    MODEL = "model"
    """A recorded model is gone unmarked, or is not what its card says, or one on disk has no record."""
    STEPS = "steps"
    """The log of a phase has a hole, or ends before a checkpoint of it."""
    BYTES = "bytes"
    """Files have another size than their record says."""
    LEFTOVER = "leftover"
    """A half-written file of a process that is gone."""


@dataclass(frozen=True)
class Finding:
    """One broken promise."""

    kind: Kind
    where: str
    """The file or folder below the home, or the session's name."""
    what: str
    remedy: str


@dataclass
class Audit:
    """What was found, and how much was looked at."""

    findings: list[Finding] = field(default_factory=list)
    sessions: int = 0
    checkpoints: int = 0
    models: int = 0
    points: int = 0
    bytes: int = 0
    """Read and compared with their hash."""

    @property
    def clean(self) -> bool:
        """Whether every promise holds."""
        return not self.findings

    def add(self, kind: Kind, where: object, what: object, remedy: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(kind, str(where), str(what).rstrip("."), remedy))
