"""What a policy decides: each limit, each protection, and what holds for any set of sessions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from forge.registry import LIVE, State
from forge.retention import Plan, SessionCleanupPolicy, Subject, Survey, Verdict, decide
from forge.retention.policy import DAY, GIGABYTE, NEW_SECONDS
from tests.unit.retention.conftest import ENDED, NOW, session_id, subject

NONE = {"max_sessions_retained": None, "max_age_days": None, "max_failed_age_days": None}


def policy(**limits: object) -> SessionCleanupPolicy:
    """A policy of nothing but these limits."""
    return SessionCleanupPolicy.model_validate({**NONE, **limits})


def going(plan: Plan) -> list[str]:
    return [decision.session.name for decision in plan.to_trash]


def reason(plan: Plan, number: int) -> str:
    return next(d.reason for d in plan.decisions if d.session.id == session_id(number))


def made(*subjects: Subject, parents: dict[int, set[int]] | None = None) -> Survey:
    kin = {session_id(c): frozenset(map(session_id, of)) for c, of in (parents or {}).items()}
    return Survey(subjects, kin)


# --- limits ---------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    default = SessionCleanupPolicy()
    assert (default.max_sessions_retained, default.max_age_days, default.max_failed_age_days) == (10, 30, 7)
    assert (default.max_total_gb, default.keep_tags) == (None, ())


def test_a_policy_that_limits_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="limits nothing"):
        policy()
    with pytest.raises(ValidationError, match="limits nothing"):
        policy(keep_tags=("paper",))


@pytest.mark.parametrize(
    "limits",
    [{"max_sessions_retained": -1}, {"max_age_days": 0}, {"max_total_gb": -1}, {"max_age": 3},
     {"max_age_days": float("nan")}],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused(limits: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SessionCleanupPolicy.model_validate(limits)


def test_nothing_to_do_in_an_empty_home() -> None:
    plan = decide(made(), SessionCleanupPolicy(max_total_gb=1), NOW)
    assert (plan.decisions, plan.bytes_to_trash, plan.bytes_to_keep) == ((), 0, 0)


def test_age_counts_from_the_end_and_failed_ones_go_sooner() -> None:
    found = made(
        subject(1, days=29.9), subject(2, days=30), subject(3, State.FAILED, days=7),
        subject(4, State.FAILED, days=6.9), subject(5, State.CREATED, days=31),
    )  # fmt: skip
    plan = decide(found, policy(max_age_days=30, max_failed_age_days=7), NOW)
    assert going(plan) == ["s5", "s2", "s3"]
    assert reason(plan, 2) == "ended 30 d ago, the limit is 30 days"
    assert reason(plan, 3) == "failed 7 d ago, the limit is 7 days"
    assert reason(plan, 5) == "never ran, last changed 31 d ago, the limit is 30 days"
    assert reason(plan, 1) == "within the limits; ended 29 d ago"
    assert (plan.bytes_to_trash, plan.bytes_to_keep) == (3000, 2000)


def test_the_newest_so_many_stay() -> None:
    plan = decide(made(*(subject(n, days=n) for n in range(1, 6))), policy(max_sessions_retained=3), NOW)
    assert going(plan) == ["s5", "s4"]
    assert reason(plan, 4) == "number 4 from the newest, the limit is 3"
    assert [d.session.name for d in plan.to_keep] == ["s1", "s2", "s3"]
    assert going(decide(made(subject(1)), policy(max_sessions_retained=0), NOW)) == ["s1"]


def test_what_goes_by_age_does_not_count_among_the_newest() -> None:
    # The failed one is newer than s3: had it kept its place, s3 would have been one too many.
    found = made(subject(1, days=1), subject(2, State.FAILED, days=8), subject(3, days=9))
    plan = decide(found, policy(max_sessions_retained=2, max_failed_age_days=7), NOW)
    assert going(plan) == ["s2"]


def test_the_oldest_go_until_the_rest_fits() -> None:
    gb = int(GIGABYTE)
    found = made(*(subject(n, days=n, bytes=gb) for n in range(1, 6)))
    plan = decide(found, policy(max_total_gb=3), NOW)
    assert going(plan) == ["s5", "s4"]
    assert reason(plan, 5) == "all sessions take 5.00 GB, the limit is 3 GB"
    assert reason(plan, 4) == "all sessions take 4.00 GB, the limit is 3 GB"
    assert plan.bytes_to_keep == 3 * gb


def test_the_newest_never_goes_for_its_size() -> None:
    found = made(subject(1, days=1, bytes=int(9 * GIGABYTE)), subject(2, days=2, bytes=1))
    assert going(decide(found, policy(max_total_gb=1), NOW)) == ["s2"]


# --- protections ----------------------------------------------------------------------------------------

HARSH = SessionCleanupPolicy(
    max_sessions_retained=0, max_age_days=10, max_failed_age_days=1, max_total_gb=1e-9, keep_tags=("paper",)
)


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (subject(1, State.RUNNING, 99), "it is running"),
        (subject(1, State.PAUSED, 99), "it is paused"),
        (subject(1, days=99, leased=True), "somebody holds its lease"),
        (subject(1, days=99, exported=True), "it is being exported"),
        (subject(1, days=99, pinned=True), "it is pinned"),
        (subject(1, days=99, tags=("draft", "paper")), "it has the tag paper"),
        (subject(1, days=99, restored_at=NOW - 6 * DAY), "it was brought back from the trash 6 d ago"),
        (subject(1, days=99, problem="it is a link"), "left alone: it is a link"),
        (subject(1, State.STOPPED, 9.9, has_checkpoint=True),
         "it can be resumed from its last checkpoint, and is younger than 10 days"),
        (subject(1, State.INTERRUPTED, 9.9, has_checkpoint=True),
         "it can be resumed from its last checkpoint, and is younger than 10 days"),
    ],
)  # fmt: skip
def test_what_is_protected_stays_whatever_the_limits(kept: Subject, why: str) -> None:
    plan = decide(made(kept, subject(2)), HARSH, NOW)
    assert (plan.decisions[-1].verdict, plan.decisions[-1].reason) == (Verdict.KEEP, why)
    assert going(plan) == ["s2"]


@pytest.mark.parametrize("seconds", [-NEW_SECONDS, -1.0, 0.0, NEW_SECONDS - 1, NEW_SECONDS])
def test_what_was_just_made_waits_for_whoever_is_about_to_run_it(seconds: float) -> None:
    new, live = subject(2, State.CREATED, seconds / DAY), subject(1, State.RUNNING)
    session = new.session.model_copy(update={"created_at": NOW - seconds})
    new = replace(new, row=new.row.model_copy(update={"session": session}))
    # A live session ranks before it, so that it is one too many.
    plan = decide(made(live, new), policy(max_sessions_retained=1), NOW)
    fresh = abs(seconds) < NEW_SECONDS
    assert going(plan) == ([] if fresh else ["s2"])
    assert ("may be about to run" in reason(plan, 2)) is fresh


@pytest.mark.parametrize(
    "gone",
    [
        subject(1, State.STOPPED, 10, has_checkpoint=True),
        subject(1, State.STOPPED, 1),
        subject(1, State.COMPLETED, 1, has_checkpoint=True),
        subject(1, days=99, tags=("draft",)),
        subject(1, days=99, restored_at=NOW - 7 * DAY),
    ],
)
def test_what_is_protected_no_longer_goes(gone: Subject) -> None:
    assert going(decide(made(gone), HARSH, NOW)) == ["s1"]


def test_without_an_age_limit_a_checkpoint_protects_for_ever() -> None:
    stopped = subject(1, State.STOPPED, 999, has_checkpoint=True)
    plan = decide(made(stopped), policy(max_sessions_retained=0), NOW)
    assert reason(plan, 1) == "it can be resumed from its last checkpoint, and no age limit is set"


def test_the_ancestors_of_a_kept_session_stay() -> None:
    found = made(
        subject(1, days=99), subject(2, days=50), subject(3, days=1), subject(4, days=60),
        parents={2: {1}, 3: {2}},
    )  # fmt: skip
    plan = decide(found, policy(max_age_days=30), NOW)
    assert going(plan) == ["s4"]
    assert reason(plan, 1) == "s2 descends from it"
    assert reason(plan, 2) == "s3 descends from it"


def test_a_family_goes_youngest_generation_first() -> None:
    found = made(
        subject(1, days=99), subject(2, days=98), subject(3, days=97), subject(4, days=200),
        parents={2: {1}, 3: {1, 2}},
    )  # fmt: skip
    assert going(decide(found, policy(max_age_days=30), NOW)) == ["s4", "s3", "s2", "s1"]
    small = decide(found, policy(max_total_gb=2.5e-6), NOW)
    assert going(small) == ["s4"]  # s3 is the newest


def test_sessions_that_descend_from_each_other_stay() -> None:
    found = made(subject(1, days=99), subject(2, days=98), parents={1: {2}, 2: {1}})
    plan = decide(found, policy(max_age_days=30), NOW)
    assert going(plan) == []
    assert reason(plan, 1) == "s2 descends from it"


def test_a_parent_that_is_gone_is_no_matter() -> None:
    assert going(decide(made(subject(1, days=99), parents={1: {7}}), policy(max_age_days=30), NOW)) == ["s1"]


# --- any set of sessions --------------------------------------------------------------------------------

SUBJECTS = st.builds(
    subject,
    number=st.just(0),
    state=st.sampled_from([s for s in State if s is not State.TRASHED]),
    days=st.integers(-2, 60) | st.floats(0, 60),
    pinned=st.booleans(),
    tags=st.sampled_from([(), ("paper",), ("other",)]),
    restored_at=st.none() | st.floats(NOW - 20 * DAY, NOW),
    bytes=st.integers(0, 5) | st.integers(0, 10_000),
    has_checkpoint=st.booleans(),
    leased=st.integers(0, 9).map(lambda n: n == 0),
    exported=st.integers(0, 9).map(lambda n: n == 0),
    problem=st.sampled_from([None] * 9 + ["a link"]),
)
POLICIES = st.builds(
    SessionCleanupPolicy,
    max_sessions_retained=st.integers(0, 8),
    max_age_days=st.none() | st.floats(0.5, 50),
    max_failed_age_days=st.none() | st.floats(0.5, 50),
    max_total_gb=st.none() | st.floats(1e-9, 5e-5),
    keep_tags=st.sampled_from([(), ("paper",)]),
)


@st.composite
def surveys(draw: st.DrawFn) -> Survey:
    """Up to twelve sessions with any lineage, cycles included."""
    found = draw(st.lists(SUBJECTS, max_size=12))
    subjects = []
    for number, one in enumerate(found):
        row = one.row.session.model_copy(update={"id": session_id(number), "name": f"s{number}"})
        subjects.append(replace(one, row=one.row.model_copy(update={"session": row})))
    last = max(0, len(found) - 1)
    pairs = draw(st.lists(st.tuples(st.integers(0, last), st.integers(0, last)), max_size=10))
    parents: dict[str, frozenset[str]] = {}
    for child, parent in pairs:
        if child != parent:
            parents[session_id(child)] = parents.get(session_id(child), frozenset()) | {session_id(parent)}
    return Survey(tuple(draw(st.permutations(subjects))), parents)


@settings(max_examples=400, deadline=None)
@given(found=surveys(), policy=POLICIES)
def test_a_plan_is_whole_and_never_touches_what_it_must_not(
    found: Survey, policy: SessionCleanupPolicy
) -> None:
    plan = decide(found, policy, NOW)
    by_id = {s.session.id: s for s in found.subjects}
    assert sorted(d.session.id for d in plan.decisions) == sorted(by_id)
    assert all(d.reason and d.bytes == by_id[d.session.id].bytes for d in plan.decisions)
    assert plan.bytes_to_trash + plan.bytes_to_keep == sum(s.bytes for s in found.subjects)
    gone: set[str] = set()
    for decision in plan.to_trash:
        one = by_id[decision.session.id]
        assert one.session.state not in LIVE
        assert not any((one.leased, one.exported, one.session.pinned, one.problem))
        assert not set(one.row.tags) & set(policy.keep_tags)
        assert one.row.restored_at is None or one.row.restored_at <= NOW - 7 * DAY
        if one.session.state in (State.STOPPED, State.INTERRUPTED) and one.has_checkpoint:
            assert policy.max_age_days is not None
            assert one.session.ended_at is not None
            assert NOW - one.session.ended_at >= policy.max_age_days * DAY
        # In the order of the plan, no session goes before one that descends from it.
        children = {child for child, of in found.parents.items() if one.session.id in of and child in by_id}
        assert children <= gone
        gone.add(one.session.id)


@settings(max_examples=200, deadline=None)
@given(found=surveys(), policy=POLICIES)
def test_a_plan_is_pure(found: Survey, policy: SessionCleanupPolicy) -> None:
    turned = Survey(tuple(reversed(found.subjects)), dict(sorted(found.parents.items(), reverse=True)))
    assert decide(found, policy, NOW) == decide(turned, policy, NOW)


@settings(max_examples=400, deadline=None)
@given(found=surveys(), policy=POLICIES, which=st.sampled_from(["count", "age", "size"]), data=st.data())
def test_a_tighter_limit_takes_no_less(
    found: Survey, policy: SessionCleanupPolicy, which: str, data: st.DataObject
) -> None:
    field, strategy = {
        "count": ("max_sessions_retained", st.integers(0, policy.max_sessions_retained or 0)),
        "age": ("max_age_days", st.floats(0.25, policy.max_age_days or 50)),
        "size": ("max_total_gb", st.floats(1e-10, policy.max_total_gb or 1e-4)),
    }[which]
    tighter = policy.model_copy(update={field: data.draw(strategy)})
    loose, tight = decide(found, policy, NOW), decide(found, tighter, NOW)
    assert {d.session.id for d in loose.to_trash} <= {d.session.id for d in tight.to_trash}


@settings(max_examples=200, deadline=None)
@given(found=surveys(), policy=POLICIES)
def test_what_is_carried_out_leaves_nothing_more_to_do(found: Survey, policy: SessionCleanupPolicy) -> None:
    plan = decide(found, policy, NOW)
    gone = {d.session.id for d in plan.to_trash}
    left = Survey(tuple(s for s in found.subjects if s.session.id not in gone), found.parents)
    assert decide(left, policy, NOW).to_trash == ()


@settings(max_examples=200, deadline=None)
@given(found=surveys(), policy=POLICIES)
def test_the_limits_hold_for_all_that_is_free_to_go(found: Survey, policy: SessionCleanupPolicy) -> None:
    """Without protections, nothing beyond a limit is left."""
    free = tuple(
        replace(
            s,
            row=s.row.model_copy(
                update={
                    "session": s.session.model_copy(update={"pinned": False}), "tags": (), "restored_at": None
                }
            ),
            has_checkpoint=False, leased=False, exported=False, problem=None,
        )
        for s in found.subjects
        if s.session.state in ENDED
    )  # fmt: skip
    kept = decide(Survey(free, {}), policy, NOW).to_keep
    assert policy.max_sessions_retained is not None
    assert len(kept) <= policy.max_sessions_retained
    if policy.max_age_days is not None:
        assert all((NOW - (d.session.ended_at or 0)) / DAY < policy.max_age_days for d in kept)
    if policy.max_total_gb is not None:
        assert sum(d.bytes for d in kept) <= policy.max_total_gb * GIGABYTE or len(kept) == 1
