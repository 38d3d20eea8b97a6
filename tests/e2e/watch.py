"""What really happened, read from the registry and the metrics file beside the screen that tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from forge.home import Home
from forge.registry import (
    CheckpointRow,
    CommandRow,
    EventRow,
    Heartbeat,
    ModelRow,
    PhaseRunRow,
    Query,
    SessionRow,
    fetch,
    open_reader,
    queries,
)

T = TypeVar("T")


class Watch:
    """Reads one home; every call opens the file, reads and closes it again."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def sessions(self) -> list[SessionRow]:
        """All sessions, newest first; none while there is no registry."""
        return self._registry(queries.sessions(limit=100)) if self._home.registry.exists() else []

    def session(self) -> SessionRow:
        """The only session there is."""
        (only,) = self.sessions()
        return only

    def phases(self) -> dict[str, PhaseRunRow]:
        """The phase runs of the only session, by name."""
        return {run.phase: run for run in self._registry(queries.phase_runs(self.session().id))}

    def events(self, kind: str) -> list[EventRow]:
        """Events of one kind, oldest first."""
        found = self._registry(queries.latest_events(self.session().id, 1000))
        return [event for event in found if event.kind == kind]

    def commands(self) -> list[CommandRow]:
        """What was asked of the owner, oldest first."""
        return self._registry(queries.commands(self.session().id, 100))[::-1]

    def checkpoints(self) -> list[CheckpointRow]:
        """Checkpoints that are there, oldest first."""
        return self._registry(queries.checkpoints(self.session().id, None))

    def models(self) -> list[ModelRow]:
        """What the phases produced."""
        return self._registry(queries.models(self.session().id, 100))

    def steps(self, phase: str, name: str) -> list[int]:
        """The steps at which a series of a phase has points."""
        found = [row for row in self._metrics(queries.series(phase)) if row.name == name]
        return [
            point.step for row in found for point in self._metrics(queries.points_after(row.id, -1, 10_000))
        ]

    def points(self) -> dict[tuple[str, str], int | None]:
        """The last step of every series that a phase logs; the machine's own load is left out."""
        rows = self._metrics(queries.series())
        return {(row.phase, row.name): row.last_step for row in rows if row.phase != "system"}

    def beat(self) -> Heartbeat | None:
        """Where the owner is."""
        return next(iter(self._metrics(queries.heartbeat())), None)

    def goes_on(self, steps: int = 20) -> Callable[[], bool]:
        """Whether the run has made so many steps since this was called."""
        before = self.beat()
        assert before is not None

        def further() -> bool:
            beat = self.beat()
            return beat is not None and beat.step >= before.step + steps

        return further

    def _registry(self, query: Query[T]) -> list[T]:
        connection = open_reader(self._home.registry)
        try:
            return fetch(connection, query)
        finally:
            connection.close()

    def _metrics(self, query: Query[T]) -> list[T]:
        path = self._home.session(self.session().id).metrics
        if not path.exists():
            return []
        connection = open_reader(path)
        try:
            return fetch(connection, query)
        finally:
            connection.close()
