"""From a survey and a policy to a plan: every session with its verdict, the reason and its bytes.

Pure: the same survey, policy and time give the same plan. What is protected here is asked again inside the
transaction that trashes it, by the same function.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from forge import units
from forge.registry import LIVE, SessionRow, State
from forge.retention.policy import DAY, GIGABYTE, GRACE_DAYS, NEW_SECONDS, SessionCleanupPolicy
from forge.retention.survey import RESUMED_FROM_CHECKPOINT, Subject, Survey


class Verdict(StrEnum):
    """What is to become of a session."""

    KEEP = "keep"
    TRASH = "trash"


@dataclass(frozen=True)
class Decision:
    """One session of a plan."""

    session: SessionRow
    verdict: Verdict
    reason: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a policy would do now. Nothing is cleaned without one, and every view shows this object."""

    policy: SessionCleanupPolicy
    now: float
    decisions: tuple[Decision, ...]
    """Every session outside the trash: those to be trashed in the order in which they go, then those that
    stay, newest first."""

    @cached_property
    def to_trash(self) -> tuple[Decision, ...]:
        """What would go, in order: no session goes before one that descends from it."""
        return tuple(d for d in self.decisions if d.verdict is Verdict.TRASH)

    @cached_property
    def to_keep(self) -> tuple[Decision, ...]:
        """What would stay."""
        return tuple(d for d in self.decisions if d.verdict is Verdict.KEEP)

    @property
    def bytes_to_trash(self) -> int:
        """Size of what would go."""
        return sum(decision.bytes for decision in self.to_trash)

    @property
    def bytes_to_keep(self) -> int:
        """Size of what would stay."""
        return sum(decision.bytes for decision in self.to_keep)


def decide(found: Survey, policy: SessionCleanupPolicy, now: float) -> Plan:
    """The plan of a policy for the sessions of a survey."""
    subjects = sorted(found.subjects, key=lambda s: (_ended(s), s.session.id))
    guarded = {s.session.id: why for s in subjects if (why := protection(s, policy, now)) is not None}
    reasons, order = _to_go(subjects, policy, now, guarded, lineage := _Lineage(subjects, found.parents))
    by_id = {s.session.id: s for s in subjects}
    going = set(order)

    def stays(subject: Subject) -> Decision:
        session_id = subject.session.id
        why = guarded.get(session_id) or _kin(lineage.kept_child(session_id, going), by_id)
        reason = why or f"within the limits; {_age(subject, now)}"
        return Decision(subject.session, Verdict.KEEP, reason, subject.bytes)

    trash = [Decision(by_id[i].session, Verdict.TRASH, reasons[i], by_id[i].bytes) for i in order]
    keep = [stays(s) for s in reversed(subjects) if s.session.id not in going]
    return Plan(policy, now, (*trash, *keep))


def choose(subject: Subject, policy: SessionCleanupPolicy, now: float, child: str | None = None) -> Plan:
    """The plan of a person who wants one session gone: limits do not count, what protects it does.

    `child` is the name of a kept session that descends from it.
    """
    why = protection(subject, policy, now, child)
    verdict = Verdict.TRASH if why is None else Verdict.KEEP
    return Plan(policy, now, (Decision(subject.session, verdict, why or "a person chose it", subject.bytes),))


def _to_go(
    subjects: list[Subject],
    policy: SessionCleanupPolicy,
    now: float,
    guarded: Collection[str],
    lineage: _Lineage,
) -> tuple[dict[str, str], list[str]]:
    """Why each session goes, and the order in which they go."""
    outlived = _outlived(subjects, policy, now, guarded)
    reasons: dict[str, str] = {}
    order: list[str] = []
    while True:
        # Again, because one limit can take the session that another was held up by.
        wanted = outlived | _too_many(subjects, policy, guarded, {*outlived, *order})
        gone = lineage.release(wanted.keys() - set(order))
        over = _over_budget(subjects, policy, guarded, lineage, {*order, *gone})
        reasons |= {i: wanted[i] for i in gone} | over
        order += [*gone, *over]
        if not gone and not over:
            return reasons, order


def protection(
    subject: Subject, policy: SessionCleanupPolicy, now: float, child: str | None = None
) -> str | None:
    """Why a session stays whatever the limits say; none where they may take it.

    `child` is the name of a kept session that descends from it.
    """
    session = subject.session
    if subject.problem is not None:
        return f"left alone: {subject.problem}"
    if session.state in LIVE:
        return f"it is {session.state}"
    if subject.leased:
        return "somebody holds its lease"
    if subject.exported:
        return "it is being exported"
    # Whoever made it takes its lease as soon as torch is loaded. Either side of now: a plan may be older.
    if session.state is State.CREATED and abs(now - session.created_at) < NEW_SECONDS:
        return f"it was made less than {NEW_SECONDS / 60:g} minutes ago and may be about to run"
    if session.pinned:
        return "it is pinned"
    if tags := sorted(set(subject.row.tags) & set(policy.keep_tags)):
        return f"it has the tag {tags[0]}"
    limit = policy.max_age_days
    resumable = session.state in RESUMED_FROM_CHECKPOINT and subject.has_checkpoint
    if resumable and (limit is None or now - _ended(subject) < limit * DAY):
        age = "no age limit is set" if limit is None else f"is younger than {limit:g} days"
        return f"it can be resumed from its last checkpoint, and {age}"
    restored = subject.row.restored_at
    if restored is not None and now - restored < GRACE_DAYS * DAY:
        return f"it was brought back from the trash {units.since(now - restored)}"
    return None if child is None else f"{child} descends from it"


def _outlived(
    subjects: list[Subject], policy: SessionCleanupPolicy, now: float, guarded: Collection[str]
) -> dict[str, str]:
    """Sessions past their age, with the reason."""
    gone = {}
    for subject in subjects:
        session, reasons = subject.session, []
        days = (now - _ended(subject)) / DAY
        if policy.max_age_days is not None and days >= policy.max_age_days:
            reasons.append(f"{_age(subject, now)}, the limit is {policy.max_age_days:g} days")
        failed = session.state is State.FAILED
        if failed and policy.max_failed_age_days is not None and days >= policy.max_failed_age_days:
            reasons.append(f"{_age(subject, now)}, the limit is {policy.max_failed_age_days:g} days")
        if reasons and session.id not in guarded:
            gone[session.id] = reasons[-1]
    return gone


def _too_many(
    subjects: list[Subject], policy: SessionCleanupPolicy, guarded: Collection[str], gone: Collection[str]
) -> dict[str, str]:
    """Sessions behind the newest so many of those that are left, with the reason."""
    most = policy.max_sessions_retained
    if most is None:
        return {}
    left = [s.session.id for s in reversed(subjects) if s.session.id not in gone]
    return {
        session_id: f"number {place} from the newest, the limit is {most}"
        for place, session_id in enumerate(left[most:], most + 1)
        if session_id not in guarded
    }


def _over_budget(
    subjects: list[Subject],
    policy: SessionCleanupPolicy,
    guarded: Collection[str],
    lineage: _Lineage,
    gone: Collection[str],
) -> dict[str, str]:
    """The oldest sessions of those left, until the rest fits; in the order in which they go."""
    if policy.max_total_gb is None:
        return {}
    sizes = {s.session.id: s.bytes for s in subjects if s.session.id not in gone}
    budget, total = policy.max_total_gb * GIGABYTE, sum(sizes.values())
    # Whoever has just waited for a large run must not find it in the trash.
    newest = subjects[-1].session.id if subjects else None
    free = {i for i in sizes if i not in guarded and i != newest}
    reasons: dict[str, str] = {}

    def fits() -> bool:
        return total <= budget

    def take(session_id: str) -> None:
        nonlocal total
        reasons[session_id] = (
            f"all sessions take {units.size(total)}, the limit is {policy.max_total_gb:g} GB"
        )
        total -= sizes[session_id]

    lineage.release(free, enough=fits, on_release=take)
    return reasons


class _Lineage:
    """Lets sessions go oldest first, none before everything that descends from it has gone."""

    def __init__(self, subjects: list[Subject], parents: Mapping[str, frozenset[str]]) -> None:
        self._place = {s.session.id: place for place, s in enumerate(subjects)}
        self._parents = {i: parents.get(i, frozenset()) & self._place.keys() for i in self._place}
        self._children = Counter(parent for of in self._parents.values() for parent in of)
        self._descendants: dict[str, list[str]] = {}
        for child, of in self._parents.items():
            for parent in of:
                self._descendants.setdefault(parent, []).append(child)

    def release(
        self,
        wanted: Collection[str],
        enough: Callable[[], bool] = lambda: False,
        on_release: Callable[[str], None] = lambda session_id: None,
    ) -> list[str]:
        """The sessions of `wanted` that can go, in order, until it is enough."""
        ready = [(self._place[i], i) for i in wanted if not self._children[i]]
        heapq.heapify(ready)
        gone: list[str] = []
        while ready and not enough():
            _, session_id = heapq.heappop(ready)
            on_release(session_id)
            gone.append(session_id)
            for parent in self._parents[session_id]:
                self._children[parent] -= 1
                if not self._children[parent] and parent in wanted:
                    heapq.heappush(ready, (self._place[parent], parent))
        return gone

    def kept_child(self, session_id: str, gone: Collection[str]) -> str | None:
        """A session that stays and descends from this one."""
        return next((i for i in self._descendants.get(session_id, ()) if i not in gone), None)


def _kin(child: str | None, by_id: Mapping[str, Subject]) -> str | None:
    return None if child is None else f"{by_id[child].session.name} descends from it"


def _ended(subject: Subject) -> float:
    """When a session was last of use: its end, or its last change if it never ran; a live one still is."""
    session = subject.session
    if session.state in LIVE:
        return float("inf")
    return session.updated_at if session.ended_at is None else session.ended_at


def _age(subject: Subject, now: float) -> str:
    session = subject.session
    what = {State.FAILED: "failed", State.CREATED: "never ran, last changed"}.get(session.state, "ended")
    return f"{what} {units.since(now - _ended(subject))}"
