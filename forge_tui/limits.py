"""The cleanup policy as it is typed: five fields, each with the reason where it cannot stay so.

An empty field means no limit. A policy that limits nothing is never one: there is nothing to clean by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from forge.retention import SessionCleanupPolicy
from forge_tui.draft import whole_number

FIELDS = ("max_sessions_retained", "max_age_days", "max_failed_age_days", "max_total_gb", "keep_tags")
LIMITS = FIELDS[:-1]


@dataclass(frozen=True)
class Checked:
    """A policy, or what is wrong with it by field."""

    policy: SessionCleanupPolicy | None
    problems: Mapping[str, str] = field(default_factory=dict)


def texts(policy: SessionCleanupPolicy) -> dict[str, str]:
    """What stands in the fields for a policy."""
    limits = {name: getattr(policy, name) for name in LIMITS}
    typed = {name: "" if limit is None else f"{limit:.15g}" for name, limit in limits.items()}
    return {**typed, "keep_tags": ", ".join(policy.keep_tags)}


def check(typed: Mapping[str, str]) -> Checked:
    """Look at every field and at how they fit together; all problems at once."""
    values: dict[str, Any] = {"keep_tags": tags_in(typed["keep_tags"])}
    problems: dict[str, str] = {}
    for name in LIMITS:
        text = typed[name].strip()
        values[name] = None
        if not text:
            continue
        number = whole_number(text) if name == "max_sessions_retained" else _amount(text)
        if number is None:
            problems[name] = _WANTED[name]
        values[name] = number
    if not any(typed[name].strip() for name in LIMITS):
        problems[LIMITS[0]] = "no limit is set: nothing to clean by"
    if problems:
        return Checked(None, problems)
    try:
        return Checked(SessionCleanupPolicy.model_validate(values))
    except ValidationError as error:
        found = {str(next(iter(e["loc"]), LIMITS[0])): str(e["msg"]).lower() for e in error.errors()}
        return Checked(None, found)


_WANTED = {
    "max_sessions_retained": "a whole number, or nothing",
    "max_age_days": "days above 0, or nothing",
    "max_failed_age_days": "days above 0, or nothing",
    "max_total_gb": "GB above 0, or nothing",
}


def _amount(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None


def tags_in(text: str) -> tuple[str, ...]:
    """Tags as they are typed: with commas between, each once."""
    return tuple(dict.fromkeys(tag for part in text.split(",") if (tag := part.strip())))
