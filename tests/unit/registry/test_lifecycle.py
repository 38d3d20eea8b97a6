"""The transition table, and that no change of state in the registry goes around it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge.errors import IllegalTransitionError
from forge.registry import (
    LIVE,
    RESUMABLE,
    TRANSITIONS,
    Connection,
    Registry,
    State,
    check_transition,
    edits,
    queries,
)

PAIRS = list(itertools.product(State, State))


def force(registry: Registry, table: str, state: State) -> None:
    registry.write(lambda c: c.execute(f"UPDATE {table} SET state = ?", [str(state)]).rowcount)


def test_the_table_is_total_and_keeps_its_promises() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(State.RUNNING in TRANSITIONS[state] for state in RESUMABLE)
    assert all(State.INTERRUPTED in TRANSITIONS[state] for state in LIVE)
    assert all(State.TRASHED not in TRANSITIONS[state] for state in LIVE)
    assert TRANSITIONS[State.COMPLETED] == {State.TRASHED}


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_every_pair_is_allowed_or_refused_in_words(before: State, after: State) -> None:
    if after in TRANSITIONS[before]:
        check_transition(before, after, what="session otter")
    else:
        with pytest.raises(
            IllegalTransitionError, match=f"session otter is {before} and cannot become {after}"
        ):
            check_transition(before, after, what="session otter")


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_every_pair_of_a_session(registry: Registry, session: str, before: State, after: State) -> None:
    force(registry, "session", before)
    held = registry.one(queries.session(session))
    if after in TRANSITIONS[before]:
        row = registry.write(lambda c: edits.set_session_state(c, session, after, now=9.0))
        assert (row.state, row.updated_at) == (after, 9.0)
    else:
        with pytest.raises(IllegalTransitionError):
            registry.write(
                lambda c: edits.set_session_state(c, session, after, now=9.0, error="no", phase="x")
            )
        assert registry.one(queries.session(session)) == held


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_every_pair_of_a_phase(registry: Registry, session: str, before: State, after: State) -> None:
    force(registry, "phase_run", before)
    held = registry.fetch(queries.phase_runs(session))

    def move(c: Connection) -> State:
        return edits.set_phase_state(c, session, "forging", after, now=9.0, step=7).state

    if after in TRANSITIONS[before] or (after is before and after in LIVE):
        assert registry.write(move) == after
        assert [run.step for run in registry.fetch(queries.phase_runs(session))] == [0, 7]
    else:
        with pytest.raises(IllegalTransitionError):
            registry.write(move)
        assert registry.fetch(queries.phase_runs(session)) == held


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wishes=st.lists(st.sampled_from(State), max_size=25))
def test_any_walk_ends_where_the_table_says(registry: Registry, session: str, wishes: list[State]) -> None:
    force(registry, "session", State.CREATED)
    expected = State.CREATED
    for wish in wishes:
        try:
            registry.write(lambda c, wish=wish: edits.set_session_state(c, session, wish, now=2.0))  # type: ignore[misc]
        except IllegalTransitionError:
            assert wish not in TRANSITIONS[expected]
        else:
            assert wish in TRANSITIONS[expected]
            expected = wish
    row = registry.one(queries.session(session))
    assert row is not None
    assert row.state is expected


def test_a_refused_change_takes_the_whole_write_with_it(registry: Registry, session: str) -> None:
    def both(c: Connection) -> None:
        edits.set_note(c, session, "half")
        edits.set_session_state(c, session, State.PAUSED, now=2.0)

    with pytest.raises(IllegalTransitionError):
        registry.write(both)
    row = registry.one(queries.session(session))
    assert row is not None
    assert row.note == ""


def test_times_and_reasons_follow_the_state(registry: Registry, session: str) -> None:
    def go(state: State, now: float, error: str | None = None) -> tuple[float | None, str | None]:
        row = registry.write(lambda c: edits.set_session_state(c, session, state, now=now, error=error))
        return row.ended_at, row.error

    assert go(State.RUNNING, 2.0) == (None, None)
    assert go(State.FAILED, 3.0, "out of memory") == (3.0, "out of memory")
    assert go(State.TRASHED, 4.0) == (3.0, "out of memory")
    assert go(State.FAILED, 5.0) == (3.0, "out of memory")  # undo: as it was, when it ended included
    assert go(State.RUNNING, 6.0) == (None, None)


def test_a_phase_keeps_its_first_start(registry: Registry, session: str) -> None:
    def go(state: State, now: float) -> tuple[float | None, float | None]:
        row = registry.write(lambda c: edits.set_phase_state(c, session, "pretrain", state, now=now))
        return row.started_at, row.ended_at

    assert go(State.RUNNING, 2.0) == (2.0, None)
    assert go(State.STOPPED, 3.0) == (2.0, 3.0)
    assert go(State.RUNNING, 4.0) == (2.0, None)
