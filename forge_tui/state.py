"""What a screen shows, as frozen values: rows of the registry, views of series, and what follows from them.

No Textual here, and nothing that changes after it was made: a snapshot can be shown late or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from forge.registry.lifecycle import LIVE, RESUMABLE, State
from forge.registry.rows import CommandRow, EventRow, Heartbeat, PhaseRunRow, SessionRow, StandingRow
from forge_tui.charts.series import EMPTY, SeriesView

SYSTEM = "system"
"""Name under which the sampler logs the machine's load; its steps are unix milliseconds."""

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One session as it stood when it was read."""

    at: float = 0.0
    session: SessionRow | None = None
    phases: tuple[PhaseRunRow, ...] = ()
    beat: Heartbeat | None = None
    events: tuple[EventRow, ...] = ()
    commands: tuple[CommandRow, ...] = ()
    """Requests that were not answered yet."""
    phase: str | None = None
    """The phase that is looked at; its series are below."""
    series: Mapping[str, SeriesView] = field(default_factory=dict)
    latest: Mapping[str, float] = field(default_factory=dict)
    """Newest value of every series of that phase."""
    system: Mapping[str, float] = field(default_factory=dict)
    system_series: Mapping[str, SeriesView] = field(default_factory=dict)
    hosted: bool = False
    """A thread of this process runs the session."""
    population: tuple[StandingRow, ...] = ()
    """Of the phase that is looked at, where it evolves one: the fittest first."""
    problem: str | None = None
    """Why something could not be read."""
    making: str = ""
    """Name of the preset of which a session is just being made."""

    def view(self, name: str) -> SeriesView:
        """A series of the phase that is looked at; empty when there is none."""
        return self.series.get(name, EMPTY)

    def phase_run(self) -> PhaseRunRow | None:
        """The run of the phase that is looked at."""
        return next((run for run in self.phases if run.phase == self.phase), None)


@dataclass(frozen=True)
class Progress:
    """How far a phase is."""

    step: int
    total: int
    tokens_per_second: float = 0.0
    steps_per_second: float = 0.0
    eta_seconds: float | None = None
    status: str = ""
    state: State | None = None
    """State of the phase run itself."""

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.step / self.total) if self.total > 0 else 0.0


@dataclass(frozen=True)
class Cleaning:
    """What decides which actions make sense on the cleanup screen."""

    part: str = "plan"
    """Which part is in focus: `policy`, `plan` or `trash`."""
    refused: bool = False
    """The policy has a problem."""
    saved: bool = True
    """The policy is the one of the home."""
    looking: bool = False
    """The plan is just being made."""
    busy: bool = False
    """Sessions are just being moved or deleted."""
    going: int = 0
    """Sessions that the plan moves to the trash."""
    undoable: int = 0
    """Sessions that went into the trash by the last cleanup here."""
    trashed: int = 0
    """Sessions in the trash."""


@dataclass(frozen=True)
class Context:
    """What decides which actions make sense now."""

    screen: str
    state: State | None = None
    """State of the session that an action would touch; none when there is no session."""
    name: str = ""
    hosted: bool = False
    """That session runs in this process."""
    engine: bool = True
    readonly: bool = False
    phases: int = 0
    valid: bool = True
    """The form on the screen can be started."""
    starting: bool = False
    """Somebody took the lease but the run has not begun yet."""
    pinned: bool = False
    cleaning: Cleaning = Cleaning()
    proving: bool = False
    """A proof runs, or waits for its turn."""

    @property
    def live(self) -> bool:
        """Whether somebody should be running the session."""
        return self.state in LIVE

    @property
    def resumable(self) -> bool:
        """Whether the session could be hosted again."""
        return self.state in RESUMABLE


@dataclass(frozen=True)
class Page(Generic[R]):
    """Part of a list, such as that of all sessions."""

    rows: tuple[R, ...] = ()
    offset: int = 0
    total: int = 0
    query: ListQuery | None = None
    problem: str | None = None
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of the sessions of this part that have some."""


@dataclass(frozen=True)
class ListQuery:
    """Which sessions are listed, and in which order."""

    search: str = ""
    order: int = 0
    """Index into `ORDERS`."""


ORDERS: tuple[tuple[str, Literal["created", "updated", "name", "state"], bool], ...] = (
    ("newest first", "created", True),
    ("oldest first", "created", False),
    ("last changed", "updated", True),
    ("name", "name", False),
    ("state", "state", False),
)
"""Title, column and direction of each way to sort the list."""


def current_phase(session: SessionRow | None, phases: tuple[PhaseRunRow, ...]) -> str | None:
    """The phase that runs, or ran last, or comes first."""
    if session is not None and session.phase is not None:
        return session.phase
    return phases[0].phase if phases else None


def starting(session: SessionRow | None) -> bool:
    """Whether somebody holds the session's lease and is about to run it."""
    return session is not None and session.starting


def progress(snapshot: Snapshot, run: PhaseRunRow | None = None) -> Progress | None:
    """How far a phase is, by default the one that is looked at; none before it was planned."""
    run = run or snapshot.phase_run()
    if run is None:
        return None
    beat = snapshot.beat
    live = snapshot.session is not None and snapshot.session.state in LIVE
    if beat is None or beat.phase != run.phase or not live:
        return Progress(max(run.step, 0), run.total_steps, state=run.state)
    return Progress(
        beat.step,
        beat.total_steps or run.total_steps,
        beat.tokens_per_second,
        beat.steps_per_second,
        beat.eta_seconds,
        beat.status,
        run.state,
    )


def elapsed(snapshot: Snapshot) -> float:
    """Seconds since the session first began to run, to its end or to now."""
    session = snapshot.session
    begun = [run.started_at for run in snapshot.phases if run.started_at is not None]
    if session is None or not begun:
        return 0.0
    end = snapshot.at if session.ended_at is None else session.ended_at
    return max(0.0, end - min(begun))
