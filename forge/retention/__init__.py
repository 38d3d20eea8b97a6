"""Cleanup without regret: policy, plan, trash, undo, purge, and the reconciler. Never imports torch.

Nothing is moved without a plan, and nothing is deleted that was not in the trash.
"""

from __future__ import annotations

from forge.home import Home
from forge.registry import Registry
from forge.retention.decisions import Decision, Plan, Verdict, decide
from forge.retention.policy import GRACE_DAYS, SessionCleanupPolicy
from forge.retention.purge import Purged, expired, purge
from forge.retention.reconcile import Reconciled, reconcile
from forge.retention.survey import Subject, Survey, survey
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
