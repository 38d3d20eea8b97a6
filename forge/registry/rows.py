"""What crosses the registry's boundary: frozen rows, one class per table or view.

Times are seconds since the epoch, UTC. Nothing here knows SQL, and nothing outside this package does.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from forge.registry.lifecycle import RESUMABLE, State


class Row(BaseModel):
    """Base of all rows."""

    model_config = ConfigDict(frozen=True)


class SessionRow(Row):
    """One session."""

    id: str
    name: str
    state: State
    preset: str
    created_at: float
    updated_at: float
    ended_at: float | None
    phase: str | None
    """The phase that runs, or ran last."""
    error: str | None
    """Why it failed."""
    note: str
    pinned: bool
    lease: str | None
    """Token of the present or last owner; a command is meant for one lease."""
    owner: str | None
    """`pid 4121 on gpu-box` of that owner, for display."""

    @property
    def starting(self) -> bool:
        """Whether somebody holds the lease and is about to run it."""
        return self.lease is not None and self.state in RESUMABLE


class PhaseRunRow(Row):
    """One attempt at a phase inside a session."""

    id: int
    session_id: str
    phase: str
    position: int
    state: State
    total_steps: int
    step: int
    """Last step known in the registry (checkpoints and ends); the live one is in the heartbeat."""
    started_at: float | None
    ended_at: float | None
    report: dict[str, Any] | None


class ModelRow(Row):
    """A set of weights that a phase produced."""

    id: str
    session_id: str
    phase: str
    name: str
    created_at: float
    parameters: int
    bytes: int
    path: str
    """Relative to the session's folder."""
    metrics: dict[str, float]


class CheckpointRow(Row):
    """A checkpoint whose manifest landed."""

    id: int
    session_id: str
    phase: str
    step: int
    path: str
    """Relative to the session's folder."""
    bytes: int
    seconds: float
    """How long training stood still for it."""
    created_at: float


class IndividualRow(Row):
    """One member of the population of a phase that evolves."""

    id: int
    session_id: str
    phase: str
    key: str
    """Hash of everything that its measurement depends on."""
    generation: int
    name: str
    kind: str
    genome: tuple[float, ...]
    recipe: tuple[dict[str, Any], ...]
    parents: tuple[str, ...]
    """Keys of the individuals that it descends from."""
    fitness: float | None
    """None until it is measured."""
    metrics: dict[str, float]
    created_at: float
    measured_at: float | None


class StandingRow(Row):
    """An individual as a line of a table: without its genome and the whole of its recipe."""

    key: str
    generation: int
    name: str
    kind: str
    method: str
    """That of the last step of its recipe."""
    parents: tuple[str, ...]
    fitness: float | None


class EventRow(Row):
    """Something a person should see."""

    id: int
    session_id: str
    at: float
    phase: str | None
    step: int | None
    level: Literal["info", "warning", "error"]
    kind: str
    message: str


CommandState = Literal["requested", "claimed", "done", "refused", "void"]


class CommandRow(Row):
    """A request to the owner of a session, and what became of it."""

    id: int
    session_id: str
    lease: str
    """The lease it was meant for; void under another."""
    kind: str
    args: dict[str, Any]
    requested_by: str
    requested_at: float
    state: CommandState
    answered_at: float | None
    answer: str | None


class Heartbeat(Row):
    """The owner's progress, rewritten several times a second; lives in the session's metrics file."""

    at: float
    phase: str
    step: int
    total_steps: int
    steps_per_second: float
    tokens_per_second: float
    eta_seconds: float | None
    """Honest estimate of what is left of this phase; none while it is unknown."""
    status: str
    """What goes on outside the step loop; empty inside it."""
    coalesced: int
    """Metric points merged because the disk stalled."""


class SeriesRow(Row):
    """One metric of one phase."""

    id: int
    phase: str
    name: str
    epoch: int
    """Raised by a rewind; a reader that sees a new epoch reads the series again from the start."""
    last_step: int | None


class PointRow(Row):
    """One value of a series; NaN and infinities are kept."""

    step: int
    value: float


class BucketRow(Row):
    """Minimum, maximum and last value of a range of steps of a series; `broken` counts NaN and infinities."""

    first_step: int
    last_step: int
    count: int
    low: float | None
    high: float | None
    last: float | None
    broken: int


class GapRow(Row):
    """How the steps of a metric follow each other in one phase."""

    phase: str
    count: int
    first_step: int
    last_step: int
    jump: int | None
    """The first step that does not follow the one before it; none where they are contiguous."""


class CandidateRow(Row):
    """What the registry knows of a session that decides whether cleanup may take it."""

    session: SessionRow
    tags: tuple[str, ...]
    has_checkpoint: bool
    """Whether a checkpoint is recorded; one that landed just before a crash may not be."""
    restored_at: float | None
    """When it was last brought back from the trash."""


class TrashRow(Row):
    """A session in the trash."""

    session_id: str
    name: str
    state_before: State
    """What undo brings it back to."""
    trashed_at: float
    actor: str
    reason: str
    bytes: int
    purging: bool
    """Its files are being deleted: there is no way back."""


class AuditRow(Row):
    """One deletion, or its undoing; kept when everything else about the session is gone."""

    id: int
    at: float
    actor: str
    action: str
    session_id: str | None
    path: str | None
    """Relative to the home."""
    bytes: int | None
    detail: str
