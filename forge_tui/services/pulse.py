"""The beat of the screen: one look after another, never faster than its own cost allows.

The cost of a look is the processor time of the event loop's thread since the look before, so drawing is
paid for too, whatever widget did it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from forge_tui.services.pace import Pace

Look = Callable[[], Awaitable[None]]
Wait = Callable[[asyncio.Event, float], Awaitable[None]]
"""Returns when the event is set, or after some seconds."""


async def timed(woken: asyncio.Event, seconds: float) -> None:
    """Wait as the clock on the wall goes."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(woken.wait(), seconds)


class Pulse:
    """Calls `look` for ever; `wake` asks for the next look at once."""

    def __init__(
        self, look: Look, pace: Pace, cpu: Callable[[], float] = time.thread_time, wait: Wait = timed
    ) -> None:
        self._look = look
        self._cpu = cpu
        self._wait = wait
        self._woken = asyncio.Event()
        self.pace = pace
        self.looks = 0

    def wake(self) -> None:
        """Look as soon as possible, because a person did something."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        mark = self._cpu()
        while True:
            await self._look()
            self.looks += 1
            await self._wait(self._woken, self.pace.interval)
            self._woken.clear()
            now = self._cpu()
            self.pace.observe(now - mark)
            mark = now
