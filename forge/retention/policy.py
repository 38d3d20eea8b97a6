"""The cleanup policy: how many sessions are kept, how long, and how much room they may take.

A policy only ever says what may go. What must stay whatever it says is in `forge.retention.decisions`.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from forge.config.models import Settings

GRACE_DAYS = 7.0
"""How long a session stays in the trash before it is deleted for good."""
DAY = 86_400.0
GIGABYTE = 1e9


class SessionCleanupPolicy(Settings):
    """What may be moved to the trash; a limit that is null does not apply."""

    max_sessions_retained: int | None = Field(10, ge=0)
    """Sessions to keep: the ones that ended last. What is protected stays besides."""
    max_age_days: float | None = Field(30, gt=0)
    """Days after its end, or its last change if it never ran, from which a session may go."""
    max_failed_age_days: float | None = Field(7, gt=0)
    """The same for a session that failed."""
    max_total_gb: float | None = Field(None, gt=0)
    """Most room of all sessions outside the trash, in GB (10^9 bytes); the oldest go first, and the newest
    never goes for this."""
    keep_tags: tuple[str, ...] = ()
    """A session with one of these tags stays."""

    @model_validator(mode="after")
    def _limits_something(self) -> SessionCleanupPolicy:
        limits = (self.max_sessions_retained, self.max_age_days, self.max_failed_age_days, self.max_total_gb)
        if all(limit is None for limit in limits):
            raise ValueError(
                "this policy limits nothing, so there is nothing to clean by; set max_sessions_retained, "
                "max_age_days, max_failed_age_days or max_total_gb"
            )
        return self
