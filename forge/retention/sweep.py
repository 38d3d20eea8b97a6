"""The cleanup that runs by itself, when a run begins and when it has completed or failed.

It moves sessions only into the trash, by a plan like everyone else; what it deletes for good has been in the
trash for the whole grace period. A clock that jumps cleans nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from forge import units
from forge.home import Home
from forge.registry import Registry, clock
from forge.registry.clock import Doubt
from forge.retention.decisions import decide
from forge.retention.policy import DAY, GRACE_DAYS, SessionCleanupPolicy
from forge.retention.purge import Purged, expired, purge
from forge.retention.reconcile import Reconciled, reconcile
from forge.retention.survey import survey
from forge.retention.trash import Outcome, execute

ACTOR = "retention.auto"
_NAMED = 5


@dataclass(frozen=True)
class Swept:
    """What a sweep did."""

    reconciled: Reconciled
    purged: Purged | None
    outcome: Outcome | None
    doubt: Doubt | None = None
    """Why nothing was trashed or deleted: the clock is not believed."""

    def postponed(self) -> str | None:
        """That it waits, and until when; none where it does not."""
        if self.doubt is None:
            return None
        return (
            f"cleanup waits until {units.date_time(self.doubt.until)}: by the clock nothing was done here "
            f"for {units.duration(self.doubt.silence)}, and a clock that was set wrong would say so too. "
            '"forge clean" and "forge trash empty" clean up at once'
        )

    def sentence(self) -> str | None:
        """What and why, for an event or a remark; none where nothing happened."""
        parts = []
        if self.outcome is not None and self.outcome.trashed:
            moved = self.outcome.trashed
            each = "; ".join(f"{d.session.name} ({d.reason})" for d in moved[:_NAMED])
            more = f"; and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
            parts.append(
                f"cleanup moved {_sessions(len(moved))} ({units.size(self.outcome.bytes)}) to the trash: "
                f"{each}{more}"
            )
        if self.purged is not None and self.purged.sessions:
            gone = len(self.purged.sessions)
            parts.append(
                f"cleanup deleted {_sessions(gone)} that had been in the trash for the grace period "
                f"({units.size(self.purged.bytes)} freed)"
            )
        return ". ".join(parts) or None


def sweep(
    home: Home,
    registry: Registry,
    policy: SessionCleanupPolicy,
    *,
    now: float,
    actor: str = ACTOR,
) -> Swept:
    """Reconcile, delete what is past its grace period, and trash what the policy says.

    Args:
        home: the home.
        registry: its registry.
        policy: the limits.
        now: the time.
        actor: who is written down in the audit.

    Raises:
        ForgeError: another process is cleaning up, and does the same.
        RegistryError: the registry cannot be written.
    """
    reconciled = reconcile(home, registry, now)
    if registry.read_only:
        return Swept(reconciled, None, None)
    doubt = registry.write(lambda c: clock.look(c, now, GRACE_DAYS * DAY))
    if doubt is not None:
        return Swept(reconciled, None, None, doubt)
    old = expired(registry, now)
    purged = purge(home, registry, old, actor=actor, now=now) if old else None
    plan = decide(survey(home, registry), policy, now)
    outcome = execute(home, registry, plan, actor=actor, now=now) if plan.to_trash else None
    return Swept(reconciled, purged, outcome)


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"
