"""What can be seen of a session from outside its training thread: one look at a time.

Everything is read from the registry and the session's metrics file, so a run in this process and one
elsewhere look the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from forge import units
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import (
    Connection,
    Error,
    EventRow,
    Heartbeat,
    Query,
    Registry,
    SessionRow,
    State,
    fetch,
    open_reader,
    queries,
)

T = TypeVar("T")

STARTING = "starting: loading the tensor library"
NEWS = frozenset({"phase", "report", "pause", "continue", "resume", "cleanup"})
"""Kinds of events that are told while a run is shown, beside warnings; an error is told at the end."""


@dataclass(frozen=True)
class Look:
    """A session at one moment."""

    session: SessionRow
    beat: Heartbeat | None
    """None before the first one of this run."""
    loss: float | None
    """Newest training loss of the phase, in nats per token."""
    problem: str | None = None
    """Why the figures cannot be read."""

    @property
    def share(self) -> float:
        """How much of the phase is done, 0 … 1."""
        return self.beat.step / self.beat.total_steps if self.beat and self.beat.total_steps else 0.0


class Watch:
    """Looks at one session; for one thread."""

    def __init__(self, registry: Registry, home: Home, session_id: str, since: float = 0.0) -> None:
        self._registry = registry
        self._session = session_id
        self._metrics = home.session(session_id).metrics
        self._since = since
        self._connection: Connection | None = None
        last = registry.one(queries.latest_events(session_id, 1))
        self._seen = last.id if last else 0

    def look(self) -> Look:
        """The session as it is now."""
        session = self._registry.one(queries.session(self._session))
        assert session is not None, "a session that is shown is not deleted"
        try:
            beat = next(iter(self._fetch(queries.heartbeat())), None)
            if beat is None or beat.at < self._since:
                return Look(session, None, None)
            latest = self._fetch(queries.latest_points(beat.phase))
        except (Error, ForgeError) as error:
            return Look(session, None, None, f"the figures cannot be read: {error}")
        loss = next((value for name, _, value in latest if name == "loss"), None)
        return Look(session, beat, loss)

    def news(self) -> list[EventRow]:
        """What happened since the last call that a person should be told."""
        events = self._registry.fetch(queries.events_after(self._session, self._seen, 1000))
        if events:
            self._seen = events[-1].id
        return [event for event in events if event.level == "warning" or event.kind in NEWS]

    def close(self) -> None:
        """Let go of the metrics file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fetch(self, query: Query[T]) -> list[T]:
        if self._connection is None:
            if not self._metrics.exists():
                return []
            self._connection = open_reader(self._metrics)
        return fetch(self._connection, query)


def figures(look: Look) -> list[str]:
    """The figures of a look, each a few words: loss, speed, time left; or what goes on instead."""
    session, beat = look.session, look.beat
    if look.problem is not None:
        return [look.problem]
    if session.state is State.PAUSED:
        # An engine that cannot save stands still by itself, and says why.
        why = f"paused: {beat.status}" if beat is not None and beat.status else "paused"
        return [f'{why}; "forge resume {session.name}" goes on']
    if beat is None:
        return [STARTING]
    if beat.status:
        return [beat.status]
    parts = [] if look.loss is None else [f"loss {units.figure(look.loss)}"]
    if beat.tokens_per_second > 0:
        parts.append(f"{units.count(beat.tokens_per_second)} tok/s")
    if beat.eta_seconds is not None:
        parts.append(f"{units.duration(beat.eta_seconds)} left")
    return parts


def position(beat: Heartbeat) -> str:
    """`step 310 of 500`; nothing before the steps begin."""
    return f"step {units.steps(beat.step)} of {units.steps(beat.total_steps)}" if beat.total_steps else ""
