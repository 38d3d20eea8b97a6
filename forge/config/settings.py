"""Settings of a whole home, in `settings.yaml`: what is cleaned by itself, and how a person hears of an end.

They change while sessions stay, so they are never frozen into one; whoever needs them reads them anew. A
command that a run starts can only come from here, never from a configuration that somebody passed on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import Field, model_validator

from forge import durable
from forge.config.io import apply_overrides, build, read_mapping
from forge.config.models import Settings
from forge.errors import ConfigError
from forge.text import Alert


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


class RetentionSettings(SessionCleanupPolicy):
    """The policy of a home, and whether it is applied without being asked."""

    auto: bool = True
    """Clean up by itself when a session begins or ends, and when a checkpoint finds no room. Sessions only
    go into the trash; what has been there for the grace period is deleted."""

    @property
    def policy(self) -> SessionCleanupPolicy:
        """The limits alone."""
        return SessionCleanupPolicy.model_validate(self.model_dump(exclude={"auto"}))


class NotifySettings(Settings):
    """How a person hears that a run ended, failed, or stands still by itself."""

    terminal: Alert = "bell"
    """What a terminal that shows the run is sent: the bell, a notice that terminals such as iTerm2, WezTerm
    and Ghostty show on the desktop (OSC 9), or nothing."""
    on_finish: str | None = None
    """A command for /bin/sh; FORGE_SESSION, FORGE_SESSION_ID, FORGE_STATE, FORGE_MESSAGE and FORGE_HOME say
    what happened. It has a minute, what it prints is in the session's log, and a run that a person stopped
    or paused does not start it."""


class HomeSettings(Settings):
    """All settings of a home."""

    retention: RetentionSettings = RetentionSettings()
    """Cleaning up."""
    notify: NotifySettings = NotifySettings()
    """Telling a person."""


def load_settings(path: Path) -> HomeSettings:
    """The settings of a home; the defaults where the file does not exist.

    Raises:
        ConfigError: unreadable, unknown keys, wrong values, or a policy that limits nothing; all listed.
    """
    return build(HomeSettings, _read(path), str(path))


def change_settings(path: Path, overrides: Sequence[str]) -> HomeSettings:
    """Set each `a.b=value` in the file, which is made where there is none, and return what holds now.

    What the file does not name keeps following the defaults; comments in it are not kept.

    Raises:
        ConfigError: the result is not valid, or the file cannot be written; it is as it was.
    """
    data = apply_overrides(_read(path), overrides)
    settings = build(HomeSettings, data, str(path))
    try:
        durable.replace_file(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=False).encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; nothing was changed.") from error
    return settings


def save_policy(path: Path, policy: SessionCleanupPolicy) -> HomeSettings:
    """Make a policy that of the home; see `change_settings`."""
    # JSON is YAML, and says null and lists in one line.
    values = policy.model_dump(mode="json", include=set(SessionCleanupPolicy.model_fields))
    return change_settings(path, [f"retention.{name}={json.dumps(value)}" for name, value in values.items()])


def _read(path: Path) -> dict[str, object]:
    return read_mapping(path) if path.exists() else {}
