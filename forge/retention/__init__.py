"""Cleanup without regret: policy, plan, trash, undo, purge, and the reconciler. Never imports torch.

Nothing is moved without a plan, and nothing is deleted that was not in the trash.
"""

from __future__ import annotations

from forge.errors import NotFoundError
from forge.home import Home
from forge.registry import Registry, cleanup
from forge.retention.decisions import Decision, Plan, Verdict, choose, decide
from forge.retention.policy import GRACE_DAYS, SessionCleanupPolicy
from forge.retention.purge import Purged, expired, purge
from forge.retention.reconcile import Reconciled, reconcile
from forge.retention.survey import Subject, Survey, look, survey
from forge.retention.sweep import Swept, sweep
from forge.retention.trash import Outcome, Undone, execute, undo, undo_all

__all__ = [
    "GRACE_DAYS",
    "Decision",
    "Outcome",
    "Plan",
    "Purged",
    "Reconciled",
    "SessionCleanupPolicy",
    "Subject",
    "Survey",
    "Swept",
    "Undone",
    "Verdict",
    "decide",
    "execute",
    "expired",
    "plan",
    "plan_one",
    "purge",
    "reconcile",
    "survey",
    "sweep",
    "undo",
    "undo_all",
]


def plan(home: Home, registry: Registry, policy: SessionCleanupPolicy, now: float) -> Plan:
    """What a policy would do to a home now; looks, and changes nothing."""
    return decide(survey(home, registry), policy, now)


def plan_one(
    home: Home, registry: Registry, policy: SessionCleanupPolicy, session_id: str, now: float
) -> Plan:
    """What would become now of a session that a person wants gone; looks, and changes nothing.

    Raises:
        NotFoundError: there is none outside the trash.
    """
    row = registry.one(cleanup.candidates(session_id))
    if row is None:
        raise NotFoundError(f"there is no session {session_id}, or it is in the trash already.")
    child = registry.one(cleanup.kept_child(session_id))
    return choose(look(home, row), policy, now, child)
