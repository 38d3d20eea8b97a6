"""What somebody else asks of a run shows on every screen within a second, however rarely that looks."""

from __future__ import annotations

import asyncio

import pytest

from forge.home import Home
from forge_tui.services.pace import HOSTING, LOW_BANDWIDTH, Limits
from tests.ui.seed import EVENTS, FIRST, FakeEngine, Plan, request, seed
from tests.ui.stage import playing, shown, stage


class Clockwork:
    """A wait that ends when it is woken, or when the test lets its time pass."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self._over = asyncio.Event()
        self._seconds = 0.0

    async def __call__(self, woken: asyncio.Event, seconds: float) -> None:
        """Wait."""
        self._seconds = seconds
        self._over.clear()
        self.waiting.set()
        ends = {asyncio.ensure_future(woken.wait()), asyncio.ensure_future(self._over.wait())}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()

    async def pass_by(self) -> float:
        """Let the wait end and the next one begin; returns how many seconds have passed."""
        await self.waiting.wait()
        passed = self._seconds
        self.waiting.clear()
        self._over.set()
        await self.waiting.wait()
        return passed


@pytest.mark.parametrize("limits", [HOSTING, LOW_BANDWIDTH])
@pytest.mark.parametrize("kind", ["pause", "stop", "checkpoint"])
async def test_a_command_from_elsewhere_shows_within_a_second(
    fresh_home: Home, limits: Limits, kind: str
) -> None:
    seed(fresh_home, Plan(events=EVENTS))
    app = stage(fresh_home, engine=FakeEngine(hosting=FIRST))
    clock = Clockwork()
    async with playing(app) as pilot:
        # As slow as it ever gets, with the next look just behind it.
        app.pulse.pace.limit(Limits(limits.slowest, limits.slowest, limits.share))
        app.pulse._wait = clock
        app.wake()
        await clock.waiting.wait()
        request(fresh_home, FIRST, kind)
        passed = 0.0
        while f"{kind} requested" not in shown(app):
            passed += await clock.pass_by()
            assert passed <= 1.0
            await pilot.pause()
        assert passed > 0
