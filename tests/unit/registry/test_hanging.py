"""A run that says nothing for too long is told of, and one that takes its time is not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from forge.registry import Heartbeat, SessionRow, State, silence, silence_of
from forge.registry.hanging import FIRST_STEP_SECONDS, OUTSIDE_SECONDS, STEP_SECONDS

NOW = 1_000_000.0


def beat(age: float, **fields: Any) -> Heartbeat:
    base: dict[str, Any] = {
        "at": NOW - age, "phase": "pretrain", "step": 310, "total_steps": 500, "steps_per_second": 5.0,
        "tokens_per_second": 8412.0, "eta_seconds": 46.0, "status": "", "coalesced": 0,
    }  # fmt: skip
    return Heartbeat(**base | fields)


def said(age: float, state: State = State.RUNNING, **fields: Any) -> str | None:
    return silence(state, beat(age, **fields), NOW)


def test_a_hung_step_is_told_with_what_is_usual() -> None:
    assert said(180) == "no step for 3 m 00 s (usually 0.2 s): hung, suspended or asleep"


@pytest.mark.parametrize(
    ("speed", "limit"),
    [(5.0, STEP_SECONDS), (1 / 3, STEP_SECONDS), (0.1, 200.0), (1 / 60, 1200.0)],
)
def test_how_long_is_too_long_depends_on_the_usual_step(speed: float, limit: float) -> None:
    assert said(limit - 1, steps_per_second=speed) is None
    assert said(limit + 1, steps_per_second=speed) is not None


def test_the_first_step_may_be_compiled() -> None:
    assert said(FIRST_STEP_SECONDS - 1, steps_per_second=0.0) is None
    late = said(FIRST_STEP_SECONDS + 1, steps_per_second=0.0)
    assert late == "the first step has taken 10 m 01 s so far: hung, suspended or asleep"


def test_preparing_and_measuring_take_their_time_but_not_for_ever() -> None:
    assert said(OUTSIDE_SECONDS - 1, status="tokenising") is None
    late = said(OUTSIDE_SECONDS + 60, status="tokenising")
    assert late == "tokenising: no sign of life for 31 m 00 s: hung, suspended or asleep"


@pytest.mark.parametrize("state", [state for state in State if state is not State.RUNNING])
def test_nothing_is_expected_of_one_that_does_not_run(state: State) -> None:
    assert said(1e6, state) is None


@pytest.mark.parametrize("age", [-1e9, -1.0, 0.0, 1.0])
def test_a_clock_that_was_set_back_is_no_alarm(age: float) -> None:
    assert said(age) is None


@pytest.mark.parametrize("age", [9e300, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("speed", [5.0, 0.0, -1.0, math.nan, math.inf, 1e-300])
def test_a_damaged_heartbeat_is_no_alarm(age: float, speed: float) -> None:
    assert said(age, steps_per_second=speed) is None


def test_before_the_first_sign_of_life_there_is_nothing_to_go_by() -> None:
    assert silence(State.RUNNING, None, NOW) is None
    assert silence(State.RUNNING, None, NOW, NOW - OUTSIDE_SECONDS + 1) is None
    assert silence(State.PAUSED, None, NOW, NOW - OUTSIDE_SECONDS - 1) is None


def test_one_that_never_gave_a_sign_of_life_is_told_of_too() -> None:
    late = silence(State.RUNNING, None, NOW, NOW - OUTSIDE_SECONDS - 60)
    assert late == "no sign of life since it started 31 m 00 s ago: hung, suspended or asleep"


def test_one_that_never_comes_out_of_its_start_is_told_of() -> None:
    session = SessionRow(
        id="A", name="otter", state=State.INTERRUPTED, preset="tiny", created_at=1.0,
        updated_at=NOW - OUTSIDE_SECONDS - 1, ended_at=None, phase=None, error=None, note="", pinned=False,
        lease="L", owner="pid 1 on here",
    )  # fmt: skip
    assert silence_of(session, beat(1.0), NOW) is not None
    assert silence_of(session.model_copy(update={"updated_at": NOW - OUTSIDE_SECONDS + 1}), None, NOW) is None
    assert silence_of(session.model_copy(update={"lease": None}), None, NOW) is None
