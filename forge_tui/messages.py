"""What happened, told to the screens: every message is named in the past tense and carries frozen values.

Textual writes its own bookkeeping into a message, so the classes are not frozen; what they carry is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.message import Message

from forge.registry.rows import SessionRow
from forge_tui.state import Page, Snapshot
from forge_tui.trials import Trials

if TYPE_CHECKING:
    from forge.retention import Plan
    from forge_tui.services.cleanup import Found


@dataclass
class SnapshotTaken(Message):
    """The service read something new about the session on the dashboard."""

    snapshot: Snapshot

    def can_replace(self, message: Message) -> bool:
        """A newer snapshot makes a waiting one worthless."""
        return isinstance(message, SnapshotTaken)


@dataclass
class PageRead(Message):
    """Part of the list of sessions was read."""

    page: Page[SessionRow]

    def can_replace(self, message: Message) -> bool:
        """Only the newest page counts."""
        return isinstance(message, PageRead)


@dataclass
class TrialsChanged(Message):
    """A proof began, came further or ended."""

    trials: Trials

    def can_replace(self, message: Message) -> bool:
        """Only the newest values count."""
        return isinstance(message, TrialsChanged)


@dataclass
class EngineAnswered(Message):
    """A call of the engine returned."""

    call: str
    session_id: str | None = None
    error: str | None = None


@dataclass
class DraftChecked(Message):
    """What takes time to check about a new session was checked."""

    number: int
    corpus_problem: str | None
    seconds: float | None
    """Estimated duration, measured in an earlier session; none when none is comparable."""
    measured_in: str | None


@dataclass
class HomeSeen(Message):
    """A look at all sessions, their folders, the trash and the disk ended."""

    found: Found | None
    problem: str | None = None
    """Why nothing was found."""


@dataclass
class PlanMade(Message):
    """A cleanup policy was tried on what was seen."""

    number: int
    plan: Plan


@dataclass
class CleanupDone(Message):
    """Sessions were moved to the trash, brought back, or deleted for good."""

    sentences: tuple[str, ...]
    undoable: tuple[str, ...]
    """Ids of sessions that the last cleanup here took and that are still in the trash."""


@dataclass
class TrashPlanned(Message):
    """What would become of the one session that a person wants gone."""

    plan: Plan


@dataclass
class SignalReceived(Message):
    """A signal asked this process to end."""

    number: int


@dataclass
class LeaveWanted(Message):
    """Somebody outside the screen wants it to be left."""

    code: int | None
    """None when a run goes on without the screen."""
