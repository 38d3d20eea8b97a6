"""How often the screen looks: never faster than its own cost allows, and at once when a person asks."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_tui.services.pace import ATTACHED, HOSTING, LOW_BANDWIDTH, Limits, Pace
from forge_tui.services.pulse import PEEK_SECONDS, Pulse, timed

costs = st.lists(st.floats(-0.1, 10), min_size=1, max_size=60)
limits = st.sampled_from([ATTACHED, HOSTING, LOW_BANDWIDTH])


@given(limits, costs)
def test_the_interval_stays_within_its_limits(limit: Limits, spent: list[float]) -> None:
    pace = Pace(limit)
    for cost in spent:
        assert limit.fastest <= pace.observe(cost) <= limit.slowest


@given(limits, st.floats(0, 0.02))
def test_a_steady_cost_is_paid_for(limit: Limits, cost: float) -> None:
    pace = Pace(limit)
    for _ in range(60):
        pace.observe(cost)
    assert cost / pace.interval <= limit.share * 1.01 or pace.interval == limit.slowest


def test_it_slows_down_at_once_and_speeds_up_little_by_little() -> None:
    pace = Pace(Limits(fastest=0.25, slowest=10, share=0.01))
    for _ in range(30):
        pace.observe(0.0)
    assert pace.interval == 0.25
    assert pace.observe(0.1) == pytest.approx(3.0)
    before = pace.interval
    assert before * 0.7 < pace.observe(0.0) < before


def test_new_limits_hold_at_once() -> None:
    pace = Pace(ATTACHED)
    pace.limit(LOW_BANDWIDTH)
    assert pace.interval == LOW_BANDWIDTH.fastest
    pace.limit(HOSTING)
    assert pace.interval <= HOSTING.slowest


def test_budgets_of_the_design() -> None:
    assert HOSTING.share <= 0.02
    assert (HOSTING.fastest, HOSTING.slowest) == (0.25, 2.0)
    assert LOW_BANDWIDTH.fastest >= 2.0


async def test_each_beat_looks_and_pays_for_what_was_drawn() -> None:
    spent = iter([0.0, 0.03, 0.07, 0.07])
    waits: list[float] = []
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1

    async def wait(woken: asyncio.Event, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise asyncio.CancelledError
        await asyncio.sleep(0)

    pace = Pace(Limits(fastest=0.1, slowest=10, share=0.01), start=1.0)
    pulse = Pulse(look, pace, cpu=lambda: next(spent), wait=wait)
    with pytest.raises(asyncio.CancelledError):
        await pulse.run()
    assert looks == pulse.looks == 3
    # 0.03 s at one hundredth of a core, then an average that remembers it beside 0.04 s.
    assert waits == [1.0, pytest.approx(3.0), pytest.approx(3.3)]


async def test_wake_ends_the_wait_once() -> None:
    woken = asyncio.Event()
    woken.set()
    async with asyncio.timeout(10):
        await timed(woken, 3600)
    await timed(asyncio.Event(), 0)


async def test_a_wake_is_used_up_by_the_look_that_follows() -> None:
    beats = asyncio.Event()

    async def look() -> None:
        beats.set()

    async def wait(woken: asyncio.Event, _seconds: float) -> None:
        await woken.wait()

    pulse = Pulse(look, Pace(), wait=wait)
    running = asyncio.ensure_future(pulse.run())
    async with asyncio.timeout(10):
        for number in range(1, 4):
            await beats.wait()
            beats.clear()
            assert pulse.looks in (number - 1, number)
            pulse.wake()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_long_rest_is_cut_short_by_what_somebody_else_does() -> None:
    waits: list[float] = []
    peeks = iter([False, True, False, False, False])

    async def look() -> None:
        if len(waits) > 2:
            raise asyncio.CancelledError

    async def wait(_woken: asyncio.Event, seconds: float) -> None:
        waits.append(seconds)

    async def peek() -> bool:
        return next(peeks)

    pace = Pace(Limits(fastest=1.8, slowest=1.8, share=0.01), start=1.8)
    pulse = Pulse(look, pace, cpu=lambda: 0.0, wait=wait, peek=peek)
    with pytest.raises(asyncio.CancelledError):
        await pulse.run()
    # Two naps and a look; then nothing happens, and the whole of it passes.
    assert waits == [PEEK_SECONDS] * 5 + [pytest.approx(0.3)]
    assert pulse.looks == 2
