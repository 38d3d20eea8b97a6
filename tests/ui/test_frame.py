"""What a terminal shows after many small updates is what the application believes it shows."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pyte
import pytest
from rich.console import Console
from textual._compositor import ChopsUpdate
from textual.drivers.headless_driver import HeadlessDriver
from textual.strip import Strip

from forge.home import Home
from forge_tui.app import ForgeApp
from forge_tui.widgets.frame import TightUpdate
from tests.ui.seed import EVENTS, Plan, seed
from tests.ui.stage import LARGE, FakeClock, Stage, press, settle, shown, stage
from tests.ui.test_budgets import LiveRun, beat


class Emulated(HeadlessDriver):
    """A terminal that shows what it is sent."""

    screen = pyte.Screen(*LARGE)

    @property
    def is_headless(self) -> bool:
        """Drawn for, unlike a headless one."""
        return False

    def write(self, data: str) -> None:
        """Show it."""
        pyte.Stream(self.screen).feed(data)


def seen() -> list[str]:
    """The lines on the terminal."""
    screen = Emulated.screen
    rows = (screen.buffer[y] for y in range(screen.lines))
    # Not `display`: it fails where half a wide character was overwritten.
    return [_line("".join(row[x].data for x in range(screen.columns))) for row in rows]


def believed(app: ForgeApp) -> list[str]:
    """The lines that the application would draw now."""
    return [_line(line) for line in shown(app).split("\n")]


def _line(text: str) -> str:
    # The emulator composes what can be composed.
    return unicodedata.normalize("NFC", text).rstrip()


async def test_a_live_dashboard_never_drifts(fresh_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    seed(fresh_home, Plan(events=EVENTS, gpu=True))
    clock = FakeClock()
    app = stage(fresh_home, engine=None, readonly=True, clock=clock)
    app.driver_class = Emulated
    Emulated.screen.reset()
    live = LiveRun(fresh_home, clock)
    same: list[bool] = []

    async def watch(pilot: Stage) -> None:
        await settle(pilot)
        for _ in range(60):
            live.advance(0.5)
            await beat(app)
            same.append(seen() == believed(app))
        app.exit()

    await app.run_async(size=LARGE, auto_pilot=watch)
    live.close()
    assert same == [True] * 60


TOUR = (
    "z", "tab", "z", "k", "question_mark", "escape", "L", "j", "slash", "=e", "escape", "escape", "n", "tab",
    "=abc", "escape", "ctrl+p", "escape",
)  # fmt: skip


async def test_no_screen_leaves_anything_behind(
    seeded: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    app = stage(seeded("hostile"))
    app.driver_class = Emulated
    Emulated.screen.reset()
    wrong: list[str] = []

    async def tour(pilot: Stage) -> None:
        await settle(pilot)
        for key in TOUR:
            await press(pilot, key)
            app.screen._on_timer_update()
            wrong.extend(
                f"{key}: {a!r} for {b!r}" for a, b in zip(seen(), believed(app), strict=True) if a != b
            )
        app.exit()

    await app.run_async(size=LARGE, auto_pilot=tour)
    assert wrong == []


def test_only_what_was_asked_for_is_sent() -> None:
    from rich.segment import Segment

    line = Strip([Segment("step "), Segment("310"), Segment(" of 500")])
    update = ChopsUpdate([{0: line, 15: None}], [(0, 5, 8)], [[15, 20]])
    console = Console(force_terminal=True, color_system="truecolor")
    assert TightUpdate.of(update).render_segments(console) == "\x1b[1;6H310"
    assert "step" in update.render_segments(console), "Textual learnt to crop; TightUpdate can go"
