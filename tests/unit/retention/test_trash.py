"""Into the trash and back: what a plan moves, what it leaves when things changed, and that undo undoes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge import locks
from forge.errors import ForgeError, NotFoundError
from forge.home import Home
from forge.registry import State, cleanup, edits
from forge.retention import (
    Outcome,
    Plan,
    SessionCleanupPolicy,
    Verdict,
    execute,
    plan,
    reconcile,
    undo,
    undo_all,
)
from forge.retention.policy import NEW_SECONDS
from tests.unit.retention.conftest import ENDED, NOW, World, names, session_id, tree

POLICY = SessionCleanupPolicy(max_sessions_retained=None, max_age_days=30)


def made(world: World, policy: SessionCleanupPolicy = POLICY) -> Plan:
    return plan(world.home, world.registry, policy, NOW)


def carry_out(world: World, what: Plan, now: float = NOW) -> Outcome:
    return execute(world.home, world.registry, what, actor="me", now=now)


def bring_back(world: World, id: str, now: float = NOW + 1) -> list[str]:
    return [row.name for row in undo(world.home, world.registry, id, actor="you", now=now)]


def test_a_plan_only_looks(world: World) -> None:
    ids = [world.add(n, days=n * 20) for n in range(3)]
    before = {i: world.rows(i) for i in ids}, tree(world.home.sessions)
    version = world.registry.data_version()
    found = made(world)
    assert [d.session.name for d in found.to_trash] == ["s2"]
    assert found.to_trash[0].bytes == sum(
        path.stat().st_size for path in (world.home.sessions / ids[2]).rglob("*") if path.is_file()
    )
    assert ({i: world.rows(i) for i in ids}, tree(world.home.sessions)) == before
    assert world.registry.data_version() == version


def test_a_session_goes_into_the_trash_and_leaves_a_record(world: World) -> None:
    old, young = world.add(1, days=40), world.add(2)
    files = tree(world.home.sessions / old)
    outcome = carry_out(world, made(world))
    assert [d.session.id for d in outcome.trashed] == [old]
    assert (outcome.skipped, outcome.bytes) == ((), outcome.trashed[0].bytes)
    world.agree()
    assert tree(world.home.trash / old) == files
    assert world.states() == {old: State.TRASHED, young: State.COMPLETED}
    (row,) = world.registry.fetch(cleanup.trash())
    assert (row.name, row.state_before, row.trashed_at, row.actor) == ("s1", State.COMPLETED, NOW, "me")
    assert row.reason == "ended 40 d ago, the limit is 30 days"
    (record,) = world.registry.fetch(cleanup.audit(10))
    assert (record.actor, record.action, record.session_id) == ("me", "trash", old)
    assert (record.path, record.bytes) == (f"sessions/{old}", outcome.bytes)
    assert record.detail == "s1: ended 40 d ago, the limit is 30 days"


def test_twice_is_harmless(world: World) -> None:
    id = world.add(1, days=40)
    found = made(world)
    carry_out(world, found)
    before = world.rows(id), tree(world.home.root / "trash")
    again = carry_out(world, found)
    assert again.trashed == ()
    assert [why for _, why in again.skipped] == ["it is gone, or in the trash already"]
    assert (world.rows(id), tree(world.home.root / "trash")) == before
    assert len(world.registry.fetch(cleanup.audit(10))) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("pinned", "it is pinned"),
        ("tagged", "it has the tag paper"),
        ("running", "it is running"),
        ("paused", "it is paused"),
        ("checkpoint", "it can be resumed from its last checkpoint, and no age limit is set"),
        ("child", "s9 descends from it"),
        ("touched", "it has changed since the plan was made"),
        ("exported", "it is being exported"),
        ("leased", "somebody holds its lease"),
        ("unmarked", "has no session.yaml"),
    ],
)
def test_what_changed_since_the_plan_stays(world: World, change: str, why: str) -> None:
    id = world.add(1, State.STOPPED, days=40)
    other = world.add(2, days=41)
    policy = SessionCleanupPolicy(max_sessions_retained=0, max_age_days=None, keep_tags=("paper",))
    found = made(world, policy)
    root = world.home.session(id).root

    def edit(sql: str) -> None:
        world.registry.write(lambda c: c.execute(sql, [id]).rowcount)

    changes: dict[str, Callable[[], object]] = {
        "pinned": lambda: world.registry.write(lambda c: edits.set_pinned(c, id, True)),
        "tagged": lambda: world.registry.write(lambda c: cleanup.set_tags(c, id, ["paper"], NOW)),
        "running": lambda: world.registry.write(
            lambda c: edits.set_session_state(c, id, State.RUNNING, now=NOW)
        ),
        "paused": lambda: [
            world.registry.write(partial(edits.set_session_state, session_id=id, state=state, now=NOW))
            for state in (State.RUNNING, State.PAUSED)
        ],
        "checkpoint": lambda: _checkpoint(root),
        "child": lambda: world.add(9, parents=[1]),
        "touched": lambda: edit("UPDATE session SET updated_at = updated_at + 1 WHERE id = ?"),
        "unmarked": lambda: (root / "session.yaml").unlink(),
    }
    with ExitStack() as held:
        if change in changes:
            changes[change]()
            # What is on disk is recorded first, by whoever looks.
            reconcile(world.home, world.registry, NOW)
        elif change == "exported":
            held.enter_context(locks.hold(root, shared=True))
        else:
            held.enter_context(locks.hold(world.home.session(id).lease))
        before = world.rows(id), tree(root)
        outcome = carry_out(world, found)
    assert [d.session.id for d in outcome.trashed] == [other]
    ((left, reason),) = outcome.skipped
    assert left.session.id == id
    assert why in reason
    assert (world.rows(id), tree(root)) == before


def test_the_deleting_transaction_leaves_what_was_just_made(world: World) -> None:
    id = world.add(1, State.CREATED, days=0)
    policy = SessionCleanupPolicy(max_sessions_retained=0, max_age_days=None)
    later = plan(world.home, world.registry, policy, NOW + NEW_SECONDS)
    assert [d.session.id for d in later.to_trash] == [id]
    ((_, why),) = carry_out(world, later, now=NOW + 5).skipped
    assert why == "it was made less than 10 minutes ago and may be about to run"
    assert world.states() == {id: State.CREATED}
    assert [d.session.id for d in carry_out(world, later, now=NOW + NEW_SECONDS).trashed] == [id]


def test_the_lease_is_held_until_the_folder_is_in_the_trash(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = world.add(1, days=40)
    seen = []

    def look(*args: object, **kwargs: object) -> None:
        seen.append(locks.is_held(world.home.session(id).lease))

    monkeypatch.setattr("forge.durable.move", look)
    carry_out(world, made(world))
    assert seen == [True]


def test_a_family_goes_together_and_comes_back_together(world: World) -> None:
    grandparent, parent, child = (world.add(n, days=40 + n, parents=[n - 1] if n else []) for n in range(3))
    assert [d.session.id for d in carry_out(world, made(world)).trashed] == [child, parent, grandparent]
    assert bring_back(world, parent) == ["s0", "s1"]
    assert world.trashed() == [child]
    assert bring_back(world, child) == ["s2"]
    world.agree()


def test_a_whole_cleanup_comes_back_in_any_order(world: World) -> None:
    ids = [world.add(n, days=40 + n, parents=[n - 1] if n else []) for n in range(3)]
    alone = world.add(7, days=50)
    before = world.states(), tree(world.home.sessions)
    carry_out(world, made(world))
    undone = undo_all(world.home, world.registry, [ids[2], alone, ids[0]], actor="you", now=NOW + 1)
    assert [row.name for row in undone.sessions] == ["s0", "s1", "s2", "s7"]
    assert undone.skipped == ()
    assert (world.states(), tree(world.home.sessions)) == before
    world.agree()


def test_what_cannot_come_back_keeps_no_other(world: World) -> None:
    gone, here, back = (world.add(n, days=40 + n) for n in range(3))
    carry_out(world, made(world))
    bring_back(world, here)
    (world.home.trash / gone).rename(world.home.root / "elsewhere")
    undone = undo_all(world.home, world.registry, [gone, here, back], actor="you", now=NOW + 1)
    assert [row.name for row in undone.sessions] == ["s2"]
    (first, why), (second, because) = undone.skipped
    assert (first, second) == (gone, here)
    assert "files of s0 are gone" in why
    assert "in the trash" in because


def test_undo_brings_everything_back_as_it_was(world: World) -> None:
    ended = (*ENDED, State.CREATED)
    ids = [world.add(n, state, 40, checkpoint=True, tags=["a", "b"]) for n, state in enumerate(ended)]
    before = {i: world.rows(i) for i in ids}, tree(world.home.sessions)
    assert len(carry_out(world, made(world)).trashed) == 5
    assert names(world.home.sessions) == []
    for i in ids:
        bring_back(world, i)
    world.agree()
    assert ({i: world.rows(i) for i in ids}, tree(world.home.sessions)) == before
    assert [r.action for r in world.registry.fetch(cleanup.audit(3, ids[0]))] == ["undo", "trash"]


def test_what_was_brought_back_is_left_alone_for_a_while(world: World) -> None:
    id = world.add(1, days=40)
    carry_out(world, made(world))
    bring_back(world, id)
    (decision,) = made(world).decisions
    assert decision.reason == "it was brought back from the trash now"
    forced = replace(decision, verdict=Verdict.TRASH)
    outcome = carry_out(world, Plan(POLICY, NOW, (forced,)), NOW + 2)
    assert outcome.trashed == ()
    later = plan(world.home, world.registry, POLICY, NOW + 8 * 86_400)
    assert [d.session.id for d in later.to_trash] == [id]


def test_undo_says_why_it_cannot(world: World) -> None:
    here, gone, purging = world.add(1), world.add(2, days=40), world.add(3, days=40)
    carry_out(world, made(world))
    with pytest.raises(NotFoundError, match="in the trash"):
        bring_back(world, here)
    (world.home.trash / gone).rename(world.home.root / "elsewhere")
    with pytest.raises(ForgeError, match="files of s2 are gone"):
        bring_back(world, gone)
    world.registry.write(lambda c: cleanup.begin_purge(c, purging, actor="me", path="", now=NOW))
    with pytest.raises(ForgeError, match=r"being deleted"):
        world.registry.write(lambda c: cleanup.restore_session(c, purging, actor="me", path="", now=NOW))


def test_what_was_begun_is_finished_first(world: World) -> None:
    id = world.add(1)
    world.registry.write(
        lambda c: cleanup.trash_session(c, id, actor="me", reason="old", bytes=1, path="", now=NOW)
    )
    assert carry_out(world, made(world)).trashed == ()
    world.agree()


def test_only_one_cleans_at_a_time(world: World) -> None:
    id = world.add(1, days=40)
    found = made(world)
    with locks.hold(world.home.cleanup_lock) as mine:
        assert mine
        with pytest.raises(ForgeError, match="another process is cleaning up"):
            carry_out(world, found)
    assert world.states()[id] is State.COMPLETED


def test_a_session_without_files_can_go(world: World) -> None:
    id = world.add(1, days=40)
    root = world.home.session(id).root
    root.rename(world.home.root / "elsewhere")
    assert [d.bytes for d in carry_out(world, made(world)).trashed] == [0]
    assert not root.exists()
    assert world.states() == {id: State.TRASHED}


SESSIONS = st.lists(
    st.tuples(
        st.sampled_from([s for s in State if s is not State.TRASHED]),
        st.integers(0, 60),
        st.booleans(),
        st.booleans(),
        st.lists(st.integers(0, 5), max_size=2),
    ),
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sessions=SESSIONS, policy=st.sampled_from([POLICY, SessionCleanupPolicy(max_sessions_retained=0)]))
def test_any_home_goes_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    sessions: list[tuple[State, int, bool, bool, list[int]]],
    policy: SessionCleanupPolicy,
) -> None:
    world = World(Home(tmp_path_factory.mktemp("home")))
    try:
        for number, (state, days, pinned, checkpoint, kin) in enumerate(sessions):
            parents = sorted({parent for parent in kin if parent < number})
            world.add(number, state, days, pinned=pinned, checkpoint=checkpoint, parents=parents)
        ids = list(world.states())
        before = {i: world.rows(i) for i in ids}, tree(world.home.sessions)
        found = made(world, policy)
        outcome = carry_out(world, found)
        assert outcome == Outcome(found.to_trash, ())
        world.agree()
        assert set(names(world.home.sessions)) == {d.session.id for d in found.to_keep}
        for decision in outcome.trashed:
            if decision.session.id in world.trashed():
                bring_back(world, decision.session.id)
        assert ({i: world.rows(i) for i in ids}, tree(world.home.sessions)) == before
        world.agree()
    finally:
        world.close()


def _checkpoint(root: Path) -> None:
    """A checkpoint that landed while the registry was not told yet."""
    folder = root / "checkpoints" / "pretrain" / "step-00000004"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_a_checkpoint_that_the_registry_does_not_know_protects(world: World) -> None:
    id = world.add(1, State.INTERRUPTED, days=20)
    _checkpoint(world.home.session(id).root)
    (decision,) = made(world, SessionCleanupPolicy(max_sessions_retained=0)).decisions
    assert decision.verdict is Verdict.KEEP
    assert decision.session.id == session_id(1)
