"""Times and sizes of cleanup, and the policy, which is a part of a home's settings.

A policy only ever says what may go. What must stay whatever it says is in `forge.retention.decisions`.
"""

from __future__ import annotations

from forge.config import SessionCleanupPolicy

__all__ = ["DAY", "GIGABYTE", "GRACE_DAYS", "NEW_SECONDS", "SessionCleanupPolicy"]

GRACE_DAYS = 7.0
"""How long a session stays in the trash before it is deleted for good."""
NEW_SECONDS = 600.0
"""How long a session that was made and not begun is taken for one that is about to begin."""
DAY = 86_400.0
GIGABYTE = 1e9
