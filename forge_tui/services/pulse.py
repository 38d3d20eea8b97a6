"""The beat of the screen: one look after another, never faster than its own cost allows.

The cost of a look is the processor time of the event loop's thread since the look before, so drawing is
paid for too, whatever widget did it. However rarely it looks, what somebody else asked of a run shows within
a second: a peek costs next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from forge_tui.services.pace import Pace

Look = Callable[[], Awaitable[None]]
Peek = Callable[[], Awaitable[bool]]
"""Whether there is something that a look should not keep waiting."""
PEEK_SECONDS = 0.5
Wait = Callable[[asyncio.Event, float], Awaitable[None]]
"""Returns when the event is set, or after some seconds."""


async def timed(woken: asyncio.Event, seconds: float) -> None:
    """Wait as the clock on the wall goes."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(woken.wait(), seconds)


class Pulse:
    """Calls `look` for ever; `wake` asks for the next look at once."""

    def __init__(
        self,
        look: Look,
        pace: Pace,
        cpu: Callable[[], float] = time.thread_time,
        wait: Wait = timed,
        peek: Peek | None = None,
    ) -> None:
        self._look = look
        self._peek = peek
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
            await self._rest(self.pace.interval)
            self._woken.clear()
            now = self._cpu()
            self.pace.observe(now - mark)
            mark = now

    async def _rest(self, seconds: float) -> None:
        while self._peek is not None and seconds > PEEK_SECONDS:
            await self._wait(self._woken, PEEK_SECONDS)
            if self._woken.is_set() or await self._peek():
                return
            seconds -= PEEK_SECONDS
        await self._wait(self._woken, seconds)
