"""Puts the application on a stage where nothing moves by itself: a fake clock, a pulse that beats on demand.

`settle` returns when everything that was set going has been drawn; no test waits for time to pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from textual import events
from textual.pilot import Pilot
from textual.worker import WorkerState

from forge.home import Home
from forge_tui.app import ForgeApp
from tests.ui.provers import FakeProver
from tests.ui.seed import NOW, FakeEngine

Stage = Pilot[Any]

SMALL, LARGE = (80, 24), (120, 40)
PATIENCE = 30.0
"""Seconds after which a test that waits for something that never comes is failed."""


@dataclass
class FakeClock:
    """A clock that a test turns."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


async def untimed(woken: asyncio.Event, _seconds: float) -> None:
    """The pulse's wait without a clock: it beats when it is asked to."""
    await woken.wait()


def stage(home: Home, **options: Any) -> ForgeApp:
    """The application over a home, with a fake engine and a fake clock unless told otherwise."""
    options.setdefault("engine", FakeEngine())
    options.setdefault("prover", FakeProver())
    options.setdefault("clock", FakeClock())
    if isinstance(engine := options["engine"], FakeEngine):
        engine.home = home
    return ForgeApp(home, wait=untimed, **options)


def forge_app(pilot: Stage) -> ForgeApp:
    """The application that a pilot flies."""
    assert isinstance(pilot.app, ForgeApp)
    return pilot.app


async def settle(pilot: Stage) -> None:
    """Look once more, and wait until workers, messages and drawing are done."""
    app = forge_app(pilot)
    async with asyncio.timeout(PATIENCE):
        app.wake()
        looks = -1
        while _busy(app) or app.pulse.looks != looks:
            looks = app.pulse.looks
            await pilot.pause()


async def press(pilot: Stage, *keys: str) -> None:
    """Press keys one after the other, each with everything that follows from it; `=text` pastes a text."""
    for key in keys:
        if len(key) > 1 and key.startswith("="):
            pilot.app.post_message(events.Paste(key[1:]))
        else:
            await pilot.press(key)
        await settle(pilot)


def _busy(app: ForgeApp) -> bool:
    waiting = (WorkerState.PENDING, WorkerState.RUNNING)
    # Proofs go on in the background as the pulse does; what they set going is drawn by messages.
    others = (worker for worker in app.workers if worker.name not in ("pulse", "proofs"))
    return app.pulse.looks == 0 or any(worker.state in waiting for worker in others)


@asynccontextmanager
async def playing(app: ForgeApp, size: tuple[int, int] = LARGE) -> AsyncIterator[Stage]:
    """The application on the stage, with everything drawn."""
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            await settle(pilot)
            yield pilot
    finally:
        if isinstance(app._engine, FakeEngine):
            app._engine.close()


def said(app: ForgeApp) -> str:
    """What is notified now."""
    return "\n".join(notification.message for notification in app._notifications)


def shown(app: ForgeApp) -> str:
    """The whole screen as text."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).ljust(width) for strip in lines[:height])


def engine_of(app: ForgeApp) -> FakeEngine:
    """The engine that was put in place of the real one."""
    assert isinstance(app._engine, FakeEngine)
    return app._engine
