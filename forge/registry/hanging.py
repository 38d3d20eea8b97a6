"""When a live run has said nothing for too long, by its heartbeat: the same rule on every screen.

Silence is no death. Only the lease says who lives, so nothing but words ever follows from this.
"""

from __future__ import annotations

from forge import units
from forge.registry.lifecycle import State
from forge.registry.rows import Heartbeat, SessionRow

STEP_SECONDS = 60.0
"""However short the steps are, a look at the dev split or a checkpoint between two may take so long."""
STEP_FACTOR = 20.0
"""So many times the usual step is too long for one."""
FIRST_STEP_SECONDS = 600.0
"""The first step of a run may have to be compiled."""
OUTSIDE_SECONDS = 1800.0
"""Preparing data and measuring take their time, and say nothing meanwhile."""
_NO_TIME = 1e9
"""Thirty years: a heartbeat that is older was damaged."""


def silence(state: State, beat: Heartbeat | None, now: float, since: float | None = None) -> str | None:
    """What to say of a run that should get on and does not; none while all is well, or it is paused.

    Args:
        state: that of the session.
        beat: its last sign of life; none before the first.
        now: seconds since the epoch.
        since: when it began to run, which counts before the first sign of life.
    """
    if state is not State.RUNNING:
        return None
    if beat is None:
        passed = 0.0 if since is None else now - since
        late = OUTSIDE_SECONDS < passed < _NO_TIME
        what = f"no sign of life since it started {units.duration(passed)} ago" if late else ""
        return f"{what}: hung, suspended or asleep" if late else None
    passed = now - beat.at
    if not passed < _NO_TIME:
        return None
    usual = 1 / beat.steps_per_second if beat.steps_per_second > 0 else None
    if beat.status:
        limit, what = OUTSIDE_SECONDS, f"{beat.status}: no sign of life for {units.duration(passed)}"
    elif usual is None:
        limit, what = FIRST_STEP_SECONDS, f"the first step has taken {units.duration(passed)} so far"
    else:
        limit = max(STEP_SECONDS, STEP_FACTOR * usual)
        what = f"no step for {units.duration(passed)} (usually {units.brief(usual)})"
    return f"{what}: hung, suspended or asleep" if passed > limit else None


def silence_of(session: SessionRow, beat: Heartbeat | None, now: float) -> str | None:
    """`silence` of a session, also of one that somebody has just begun to start."""
    if session.starting:
        # A heartbeat is one of the attempt before.
        return silence(State.RUNNING, None, now, session.updated_at)
    return silence(session.state, beat, now, session.updated_at)
