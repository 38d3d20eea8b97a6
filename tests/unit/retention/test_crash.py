"""A crash, and a disk that refuses, at every single effect; then a fresh process puts it right.

Walks n = 1, 2, 3 … until the operation gets through untouched. A session is always whole: all of its files
and rows are there, or none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.errors import ForgeError
from forge.home import Home
from forge.registry import State, cleanup
from forge.retention import Reconciled, SessionCleanupPolicy, execute, plan, purge, reconcile, undo
from tests.unit.retention.conftest import FAULTS, NOW, Crash, World, failing, session_id, traced, tree

POLICY = SessionCleanupPolicy(max_sessions_retained=None, max_age_days=30)
Operation = Callable[[World], object]


def trash(world: World) -> object:
    """Trash every old session; an error of the disk is an answer, not an end."""
    found = plan(world.home, world.registry, POLICY, NOW)
    return execute(world.home, world.registry, found, actor="me", now=NOW)


def bring_back(world: World) -> object:
    return undo(world.home, world.registry, session_id(2), actor="me", now=NOW)


def empty(world: World) -> object:
    rows = world.registry.fetch(cleanup.trash())
    return purge(world.home, world.registry, rows, actor="me", now=NOW)


OPERATIONS: dict[str, tuple[list[Operation], Operation]] = {
    "trash": ([], trash),
    "undo": ([trash], bring_back),
    "purge": ([trash], empty),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_effect(name: str, fault: str, tmp_path: Path) -> None:
    before, operation = OPERATIONS[name]
    at, most = 0, 200
    while at < most:
        at += 1
        world = World(Home(tmp_path / str(at)))
        try:
            ids = [world.add(1, days=50), world.add(2, days=45, parents=[1]), world.add(3)]
            for step in before:
                step(world)
            rows, files = {i: world.rows(i) for i in ids}, {i: _files(world, i) for i in ids}
            with failing(at, fault) as effects, contextlib.suppress(Crash, ForgeError, OSError):
                operation(world)
            _look(world, name, rows, files)
        finally:
            world.close()
        if not effects.struck:
            break
    assert 5 < at < most, "the walk must end by getting through, and not before it struck"


def test_a_crash_while_a_crash_is_repaired(tmp_path: Path) -> None:
    """Every pair: the n-th effect of a purge, then the m-th effect of the repair."""
    struck, at = True, 0
    while struck:
        at, second, struck_again = at + 1, 0, True
        while struck_again:
            second += 1
            world = World(Home(tmp_path / f"{at}-{second}"))
            try:
                world.add(1, days=50)
                trash(world)
                files = {session_id(1): _files(world, session_id(1))}
                rows = {session_id(1): world.rows(session_id(1))}
                with failing(at, "crash") as effects, contextlib.suppress(Crash):
                    empty(world)
                world.fresh()
                with failing(second, "crash") as repair, contextlib.suppress(Crash):
                    reconcile(world.home, world.registry, NOW)
                _look(world, "purge", rows, files)
            finally:
                world.close()
            struck, struck_again = effects.struck, repair.struck
    assert at > 5


def test_the_order_in_which_things_reach_the_disk(tmp_path: Path) -> None:
    world = World(Home(tmp_path / "home"))
    try:
        world.add(1, days=50)
        with traced() as order:
            trash(world)
        # Both sides of the rename are on disk, and only after the record of it.
        assert order == ["COMMIT", "trash", "sessions"]
        with traced() as order:
            undo(world.home, world.registry, session_id(1), actor="me", now=NOW)
        assert order[0] == "COMMIT"
        assert order[-2:] == ["sessions", "trash"]
        world.registry.write(lambda c: c.execute("DELETE FROM audit").rowcount)
        trash(world)
        with traced() as order:
            empty(world)
        # The rows go when it is certain that the files are gone.
        assert (order[0], order[-2:]) == ("COMMIT", ["trash", "COMMIT"])
        assert order.count("COMMIT") == 2
    finally:
        world.close()


def _look(
    world: World,
    name: str,
    rows: dict[str, dict[str, list[tuple[object, ...]]]],
    files: dict[str, dict[str, tuple[int, bytes]]],
) -> None:
    """What must be true in a fresh process after its first look."""
    world.fresh()
    result = reconcile(world.home, world.registry, NOW + 1)
    assert result.problems == []
    assert reconcile(world.home, world.registry, NOW + 2) == Reconciled()
    world.agree()
    states = world.states()
    for id in rows:
        if id not in states:
            assert name == "purge"
            assert not any(world.rows(id).values())
            assert "purged" in {r.action for r in world.registry.fetch(cleanup.audit(100, id))}
            continue
        assert _files(world, id) == files[id]
        now, then = world.rows(id), rows[id]
        assert {t: now[t] for t in now if t not in ("session", "trash")} == {
            t: then[t] for t in then if t not in ("session", "trash")
        }
        assert now["session"][0][3:] == then["session"][0][3:]
        if states[id] is State.TRASHED:
            assert world.registry.fetch(cleanup.trashed(id))[0].state_before is State.COMPLETED
    if session_id(3) in rows:
        assert states[session_id(3)] is State.COMPLETED
    # A kept session's parent is kept.
    if states.get(session_id(2)) is State.COMPLETED:
        assert states[session_id(1)] is State.COMPLETED


def _files(world: World, id: str) -> dict[str, tuple[int, bytes]]:
    trashed = world.home.trashed(id).root
    return tree(trashed if trashed.exists() else world.home.session(id).root)
