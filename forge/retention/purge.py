"""Delete trashed sessions for good: files first, rows last, then the registry gives its room back.

A crash in between leaves a row that says "purging"; whoever comes next goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from forge.errors import ForgeError, RegistryError
from forge.home import Home
from forge.registry import Connection, Registry, TrashRow, cleanup, fetch
from forge.retention import folders
from forge.retention.policy import DAY, GRACE_DAYS
from forge.retention.reconcile import alone, finish_purge, repair


@dataclass(frozen=True)
class Purged:
    """What was deleted for good."""

    sessions: tuple[TrashRow, ...]
    skipped: tuple[tuple[TrashRow, str], ...]
    """What stays in the trash, each with the reason."""
    file_bytes: int
    """Measured size of the files that had no other name."""
    registry_bytes: int
    """By how much the registry's own files shrank."""
    notice: str | None = None

    @property
    def bytes(self) -> int:
        """What the disk has back."""
        return self.file_bytes + self.registry_bytes


def expired(registry: Registry, now: float, days: float = GRACE_DAYS) -> list[TrashRow]:
    """Sessions that have been in the trash for so many days."""
    return [row for row in registry.fetch(cleanup.trash()) if now - row.trashed_at >= days * DAY]


def purge(home: Home, registry: Registry, rows: Iterable[TrashRow], *, actor: str, now: float) -> Purged:
    """Delete sessions in the trash for good; one that cannot go stays there, with the reason.

    Raises:
        ForgeError: another process is cleaning up.
        RegistryError: the registry cannot be written; what was deleted until then is gone.
    """
    done: list[TrashRow] = []
    skipped: list[tuple[TrashRow, str]] = []
    freed, shrunk, notice = 0, 0, None
    with alone(home):
        repair(home, registry, now)
        for row in rows:
            try:
                freed += _purge(home, registry, row.session_id, actor, now)
                done.append(row)
            except RegistryError:
                raise
            except OSError as error:
                skipped.append((row, f"{error.filename}: {error.strerror}"))
            except ForgeError as error:
                skipped.append((row, str(error)))
        if done:
            try:
                shrunk = registry.compact()
            except RegistryError as error:
                notice = f"the registry keeps its room until the next time: {error}"
    return Purged(tuple(done), tuple(skipped), freed, shrunk, notice)


def _purge(home: Home, registry: Registry, session_id: str, actor: str, now: float) -> int:
    folder = folders.place(home.trash, session_id)

    def begin(c: Connection) -> TrashRow:
        if children := fetch(c, cleanup.kept_child(session_id)):
            raise ForgeError(f"{children[0]} descends from it")
        return cleanup.begin_purge(
            c, session_id, actor=actor, path=str(folder.relative_to(home.root)), now=now
        )

    if folders.is_there(folder):
        # Before the registry says that there is no way back. What a purge left has been finished by now.
        folders.check(folder)
        folders.measure(folder)
    return finish_purge(home, registry, registry.write(begin), actor, now)
