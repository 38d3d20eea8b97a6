"""The policy as it is typed: what a person writes becomes the policy, or the reason why it cannot."""

from __future__ import annotations

import pytest

from forge.retention import SessionCleanupPolicy
from forge_tui import limits

USUAL = limits.texts(SessionCleanupPolicy())


def test_the_defaults_are_typed_as_a_person_would() -> None:
    assert USUAL == {
        "max_sessions_retained": "10", "max_age_days": "30", "max_failed_age_days": "7", "max_total_gb": "",
        "keep_tags": "",
    }  # fmt: skip
    assert limits.check(USUAL).policy == SessionCleanupPolicy()


@pytest.mark.parametrize(
    "policy",
    [
        SessionCleanupPolicy(max_total_gb=1.5, keep_tags=("paper", "a b")),
        SessionCleanupPolicy(max_sessions_retained=0, max_age_days=None, max_failed_age_days=0.5),
        SessionCleanupPolicy(max_sessions_retained=1_234_567),
    ],
)
def test_what_is_shown_is_read_back(policy: SessionCleanupPolicy) -> None:
    assert limits.check(limits.texts(policy)).policy == policy


@pytest.mark.parametrize(
    ("field", "text", "why"),
    [
        ("max_sessions_retained", "1.5", "a whole number"),
        ("max_sessions_retained", "-1", "a whole number"),
        ("max_sessions_retained", "ten", "a whole number"),
        ("max_age_days", "0", "above 0"),
        ("max_age_days", "nan", "above 0"),
        ("max_failed_age_days", "inf", "above 0"),
        ("max_failed_age_days", "x", "above 0"),
        ("max_total_gb", "-3", "above 0"),
    ],
)
def test_a_field_says_why_it_cannot_stay_so(field: str, text: str, why: str) -> None:
    checked = limits.check({**USUAL, field: text})
    assert checked.policy is None
    assert list(checked.problems) == [field]
    assert why in checked.problems[field]


def test_a_policy_that_limits_nothing_is_none() -> None:
    checked = limits.check({**dict.fromkeys(USUAL, ""), "keep_tags": "paper"})
    assert checked.policy is None
    assert "no limit is set" in checked.problems["max_sessions_retained"]


def test_tags_are_separated_by_commas() -> None:
    policy = limits.check({**USUAL, "keep_tags": " paper,, best one , paper"}).policy
    assert policy is not None
    assert policy.keep_tags == ("paper", "best one")
