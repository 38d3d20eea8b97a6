"""What the cleanup screen looks at (sessions and their folders, the trash, the disk), and what it does there.

All of it runs in threads. A look walks through every folder on a connection of its own and never writes;
what changes something goes through the engine's registry, and comes back as sentences.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from forge import retention
from forge.config import RetentionSettings, SessionCleanupPolicy, load_settings, save_policy
from forge.home import Home
from forge.registry import Registry, SessionRow, TrashRow, cleanup, edits
from forge.retention import Plan, Survey
from forge_tui.messages import CleanupDone, TrashPlanned
from forge_tui.present import cleanup as present
from forge_tui.present.disk import Disk

Ids = tuple[str, ...]

LEAST_SECONDS = 2.0
OLD_SECONDS = 60.0
"""Ages grow: what was seen so long ago is looked at again though nothing has changed."""
SHARE = 0.05
"""Of the time on the screen, so much may be spent on looking."""


@dataclass(frozen=True)
class Found:
    """A home as it was seen."""

    survey: Survey
    trash: tuple[TrashRow, ...]
    """The one that came last first."""
    disk: Disk
    settings: RetentionSettings

    @cached_property
    def bytes(self) -> int:
        """Size of all sessions outside the trash."""
        return sum(subject.bytes for subject in self.survey.subjects)


def look(home: Home) -> Found:
    """See what there is.

    Raises:
        ConfigError: the settings of the home cannot be read.
        RegistryError: the registry cannot be read.
        OSError: the disk cannot be looked at.
    """
    found, trash = Survey((), {}), tuple[TrashRow, ...]()
    if home.registry.exists():
        with Registry(home.registry, read_only=True) as registry:
            found, trash = retention.survey(home, registry), tuple(registry.fetch(cleanup.trash()))
    return Found(found, trash, disk(home.root), load_settings(home.settings).retention)


def disk(folder: Path) -> Disk:
    """How large and how free the file system of a folder is; of one that is not made yet, its parent's."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    usage = shutil.disk_usage(there)
    return Disk(usage.total, usage.free)


def clean(plan: Plan, home: Home, registry: Registry, now: float) -> CleanupDone:
    """Carry out a plan."""
    outcome = retention.execute(home, registry, plan, actor=_actor(), now=now)
    ids = tuple(decision.session.id for decision in outcome.trashed)
    return CleanupDone(tuple(present.cleaned(outcome)), ids)


def plan_one(session_id: str, home: Home, registry: Registry, now: float) -> TrashPlanned:
    """What would become of one session, by what protects it under the policy of the home."""
    policy = load_settings(home.settings).retention.policy
    return TrashPlanned(retention.plan_one(home, registry, policy, session_id, now))


def trash_one(plan: Plan, home: Home, registry: Registry, now: float) -> CleanupDone:
    """Carry out the plan for one session."""
    outcome = retention.execute(home, registry, plan, actor=_actor(), now=now)
    return CleanupDone(tuple(present.moved(outcome)), tuple(d.session.id for d in outcome.trashed))


def take_back(ids: Ids, home: Home, registry: Registry, now: float) -> CleanupDone:
    """Bring back what was moved to the trash last."""
    rows = [row for row in registry.fetch(cleanup.trash()) if row.session_id in ids]
    return undo(rows, ids, home, registry, now)


def undo(rows: Sequence[TrashRow], left: Ids, home: Home, registry: Registry, now: float) -> CleanupDone:
    """Bring sessions back; `left` of the last cleanup stay undoable."""
    names = {row.session_id: row.name for row in rows}
    undone = retention.undo_all(home, registry, list(names), actor=_actor(), now=now)
    back = {row.id for row in undone.sessions}
    return CleanupDone(tuple(present.restored(undone, names)), tuple(i for i in left if i not in back))


def purge(rows: Sequence[TrashRow], left: Ids, home: Home, registry: Registry, now: float) -> CleanupDone:
    """Delete sessions for good; `left` of the last cleanup stay undoable."""
    result = retention.purge(home, registry, rows, actor=_actor(), now=now)
    gone = {row.session_id for row in result.sessions}
    return CleanupDone(tuple(present.purged(result)), tuple(i for i in left if i not in gone))


def save(policy: SessionCleanupPolicy, left: Ids, home: Home, registry: Registry, now: float) -> CleanupDone:
    """Make a policy that of the home; `left` of the last cleanup stay undoable."""
    save_policy(home.settings, policy)
    return CleanupDone(tuple(present.saved(home.settings)), left)


def pin(row: SessionRow, left: Ids, home: Home, registry: Registry, now: float) -> CleanupDone:
    """Pin a session, or let a pinned one go; `left` of the last cleanup stay undoable."""
    after = registry.write(lambda c: edits.set_pinned(c, row.id, not row.pinned))
    return CleanupDone((present.pinned(after),), left)


def _actor() -> str:
    return f"forge-tui (pid {os.getpid()})"


class Rhythm:
    """When to look again: soon after a change, rarely when a look is expensive."""

    def __init__(self) -> None:
        self._began = self._ended = 0.0
        self._cost = 0.0
        self._changed = True

    def change(self) -> None:
        """Something is not as it was seen."""
        self._changed = True

    def hurry(self) -> None:
        """Something is not as it was seen, and a person waits for it."""
        self._changed, self._ended, self._cost = True, 0.0, 0.0

    def due(self, now: float) -> bool:
        """Whether it is time to look."""
        if now - self._ended < max(LEAST_SECONDS, self._cost / SHARE):
            return False
        return self._changed or now - self._ended >= OLD_SECONDS

    def begin(self) -> None:
        """A look begins."""
        self._changed = False
        self._began = time.monotonic()

    def end(self, now: float) -> None:
        """A look ended."""
        self._cost = time.monotonic() - self._began
        self._ended = now
