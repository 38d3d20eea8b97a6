"""States of sessions and phase runs, and the one table of allowed transitions.

Every change of state in the registry goes through `check_transition`, inside the transaction that makes it.
"""

from __future__ import annotations

from enum import StrEnum

from forge.errors import IllegalTransitionError


class State(StrEnum):
    """Where a session or a phase run stands."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    TRASHED = "trashed"


LIVE = frozenset({State.RUNNING, State.PAUSED})
"""States that need a live owner: without one they become `interrupted`."""

RESUMABLE = frozenset({State.CREATED, State.STOPPED, State.INTERRUPTED, State.FAILED})
"""States from which `resume` may take the lease and go on."""

_ENDED = frozenset({State.COMPLETED, State.FAILED, State.STOPPED, State.INTERRUPTED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.CREATED: frozenset({State.RUNNING, State.FAILED, State.STOPPED, State.TRASHED}),
    State.RUNNING: frozenset({State.PAUSED}) | _ENDED,
    State.PAUSED: frozenset({State.RUNNING, State.FAILED, State.STOPPED, State.INTERRUPTED}),
    # Trash is left by undo, back to the state from before: any ended or never started one.
    State.TRASHED: _ENDED | {State.CREATED},
    State.COMPLETED: frozenset({State.TRASHED}),
    State.FAILED: frozenset({State.RUNNING, State.TRASHED}),
    State.STOPPED: frozenset({State.RUNNING, State.TRASHED}),
    State.INTERRUPTED: frozenset({State.RUNNING, State.TRASHED}),
}


def check_transition(before: State, after: State, *, what: str) -> None:
    """Return silently when `before -> after` is allowed.

    Raises:
        IllegalTransitionError: it is not; the message names `what` and the states that can be reached.
    """
    if after in TRANSITIONS[before]:
        return
    reachable = ", ".join(sorted(TRANSITIONS[before]))
    raise IllegalTransitionError(
        f"{what} is {before} and cannot become {after}; from {before} it can become: {reachable}."
    )
