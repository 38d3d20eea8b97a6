"""What the screen may cost, in figures that no machine changes: bytes, statements, modules, threads.

Times are measured in `benchmarks/`; a test that asserted one would fail on a busy machine.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest
from textual.drivers.headless_driver import HeadlessDriver

from forge.home import Home
from forge.registry import Heartbeat, MetricsWriter, Registry, edits
from forge_tui.app import ForgeApp
from forge_tui.services.pace import ATTACHED, LOW_BANDWIDTH
from tests.ui.seed import EVENTS, FIRST, NOW, Plan, seed
from tests.ui.stage import LARGE, PATIENCE, FakeClock, Stage, forge_app, playing, settle, stage

SECONDS = 60
STEADY, LOW = 8_000, 2_000
"""Bytes a second to the terminal, with and without --low-bandwidth."""


class Counting(HeadlessDriver):
    """A terminal that counts what it is sent."""

    sent = 0

    @property
    def is_headless(self) -> bool:
        """Drawn for, unlike a headless one."""
        return False

    def write(self, data: str) -> None:
        """Count the bytes."""
        Counting.sent += len(data.encode())


class LiveRun:
    """A run that goes on: four steps a second, a sample a second, a checkpoint now and then."""

    def __init__(self, home: Home, clock: FakeClock) -> None:
        self._home, self._clock = home, clock
        self._writer = MetricsWriter(home.session(FIRST).metrics)
        self._registry = Registry.open(home)
        self._step = 310

    def advance(self, seconds: float) -> None:
        """What happens in so many seconds."""
        before = self._clock.now
        self._clock.now += seconds
        for _ in range(round(4 * seconds)):
            self._step += 1
            # Every figure changes in every digit, which is more than a real run does.
            wild = self._step * 0.6180339887 % 1
            values = {"loss": 3.1 + 0.4 * wild, "lr": 3e-3 * wild, "grad_norm": 0.5 + wild}
            self._writer.append([("pretrain", self._step, values)])
            if self._step % 50 == 0:
                self._writer.append([("pretrain", self._step, {"val": 1.6 + wild})])
            if self._step % 100 == 0:
                self._registry.write(partial(self._checkpoint, self._step))
        if int(self._clock.now) != int(before):
            wild = self._clock.now * 0.7548776662 % 1
            sample = {
                "rss_bytes": 6e8 * (1 + wild / 9), "ram_used_bytes": 8e9 * (1 + wild / 9),
                "ram_total_bytes": 25.2e9, "cpu_percent": 99 * wild, "gpu_used_bytes": 4e9 * (1 + wild),
                "gpu_total_bytes": 141e9, "gpu_percent": 99 * wild, "gpu_process_bytes": 3e9 * (1 + wild / 9),
                "torch_allocated_bytes": 2e9 * (1 + wild), "torch_reserved_bytes": 2e9 * (1 + wild),
                "torch_peak_bytes": 3e9, "budget_bytes": 6e9,
            }  # fmt: skip
            self._writer.append([("system", int(self._clock.now * 1000), sample)])
        beat = Heartbeat(
            at=self._clock.now, phase="pretrain", step=self._step, total_steps=900, steps_per_second=4.0,
            tokens_per_second=8400 + 99 * (self._step % 7), eta_seconds=(900 - self._step) / 4, status="",
            coalesced=0,
        )  # fmt: skip
        self._writer.heartbeat(beat)

    def _checkpoint(self, step: int, c: object) -> None:
        message = f"checkpoint step {step} (12.4 MB, 30 ms stall)"
        edits.add_event(c, FIRST, kind="checkpoint", message=message, now=self._clock.now, step=step)  # type: ignore[arg-type]

    def close(self) -> None:
        """Close both databases."""
        self._writer.close()
        self._registry.close()


async def beat(app: ForgeApp) -> None:
    """One look, and the frame that follows from it."""
    looks = app.pulse.looks
    app.wake()
    async with asyncio.timeout(PATIENCE):
        while app.pulse.looks == looks:  # noqa: ASYNC110 - one turn of the loop after the other
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
    # The frame is drawn now, not when a timer of the wall clock says so.
    app.screen._on_timer_update()


async def bytes_a_second(home: Home, every: float, **options: bool) -> float:
    """What a minute of a live dashboard costs on the link, looking every so many seconds."""
    clock = FakeClock()
    app = stage(home, engine=None, readonly=True, clock=clock, **options)
    app.driver_class = Counting
    live = LiveRun(home, clock)

    async def watch(pilot: Stage) -> None:
        await settle(pilot)
        Counting.sent = 0
        for _ in range(round(SECONDS / every)):
            live.advance(every)
            await beat(app)
        app.exit()

    await app.run_async(size=LARGE, auto_pilot=watch)
    live.close()
    return Counting.sent / SECONDS


@pytest.mark.parametrize("gpu", [False, True])
async def test_a_minute_of_a_live_dashboard_on_the_link(
    fresh_home: Home, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    seed(fresh_home, Plan(events=EVENTS, gpu=gpu))
    rate = await bytes_a_second(fresh_home, ATTACHED.fastest)
    print(f"{rate:,.0f} bytes a second")
    # A screen that draws nothing would be cheap as well.
    assert 500 < rate <= STEADY


async def test_a_minute_of_low_bandwidth(fresh_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    seed(fresh_home, Plan(events=EVENTS, gpu=True))
    rate = await bytes_a_second(fresh_home, LOW_BANDWIDTH.fastest, low_bandwidth=True)
    print(f"{rate:,.0f} bytes a second")
    assert 200 < rate <= LOW


async def test_a_session_that_stands_sends_nothing(
    seeded: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    clock = FakeClock()
    app = stage(seeded("finished"), engine=None, readonly=True, clock=clock)
    app.driver_class = Counting

    async def watch(pilot: Stage) -> None:
        await settle(pilot)
        Counting.sent = 0
        for _ in range(20):
            clock.now += 1
            await beat(app)
        app.exit()

    await app.run_async(size=LARGE, auto_pilot=watch)
    assert Counting.sent == 0


async def test_statements_of_a_tick_are_few(fresh_home: Home) -> None:
    seed(fresh_home, Plan(events=EVENTS, gpu=True))
    clock = FakeClock()
    app = stage(fresh_home, engine=None, readonly=True, clock=clock)
    live = LiveRun(fresh_home, clock)
    async with playing(app) as pilot:
        store = forge_app(pilot).store
        sent = []
        for _ in range(40):
            live.advance(0.25)
            before = store.registry.statements + store.metrics.statements
            await beat(app)
            sent.append(store.registry.statements + store.metrics.statements - before)
    live.close()
    # Two pragmas, series and heartbeat, and one for each series that moved: 3 a step, 12 a sample, 1 now and
    # then; five more when a checkpoint changes the registry.
    assert max(sent) <= 2 + 2 + 3 + 12 + 1 + 5
    assert sorted(sent)[len(sent) // 2] <= 2 + 2 + 3


async def test_threads_of_an_attached_screen(seeded: Callable[[str], Home]) -> None:
    before = set(threading.enumerate())
    app = stage(seeded("running"), engine=None, readonly=True)
    async with playing(app) as pilot:
        await settle(pilot)
        # One for the registry and one for the metrics.
        mine = set(threading.enumerate()) - before
        assert len(mine) <= 2
    for thread in mine:
        thread.join(PATIENCE)
        assert not thread.is_alive()


ATTACH = """
import asyncio, sys
from pathlib import Path
from forge.home import Home
from forge_tui.app import ForgeApp
from forge_tui.services.engine import LazyEngine

async def main():
    home = Home(Path(sys.argv[1]))
    engine = LazyEngine(home)
    app = ForgeApp(home, engine=engine)
    async with app.run_test(size=(120, 40)) as pilot:
        for key in ("L", "d", "n", "escape", "question_mark", "escape", "ctrl+p", "escape"):
            await pilot.press(key)
            await pilot.pause()
        for worker in [w for w in app.workers if w.name != "pulse"]:
            await worker.wait()
        assert app.snapshot.session is not None
    engine.shutdown(keep_training=False)
    print(" ".join(sys.modules))

asyncio.run(main())
"""


def test_an_attached_screen_loads_no_tensor_library(fresh_home: Home) -> None:
    """Every screen is opened, and dead owners are looked for, all without torch."""
    seed(fresh_home, Plan(events=EVENTS, age=NOW))
    result = subprocess.run(
        [sys.executable, "-c", ATTACH, str(fresh_home.root)],
        capture_output=True, text=True, check=True, timeout=120, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    loaded = set(result.stdout.split())
    assert "forge.engine" in loaded
    heavy = {
        "torch",
        "tokenizers",
        "safetensors",
        "safetensors.torch",
        "forge.phases",
        "forge.models",
        "mlflow",
    }
    assert not heavy & loaded
