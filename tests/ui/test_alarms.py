"""A person who looks elsewhere is called when the run ends or stands still by itself, and only then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from forge.config import change_settings
from forge.home import Home
from forge.registry import EventRow, Registry, SessionRow, State, edits
from forge_tui.app import ForgeApp
from forge_tui.present.alarms import alarm
from forge_tui.shell import Shell
from forge_tui.state import Snapshot
from tests.ui.seed import FIRST, NOW, Plan, seed
from tests.ui.stage import playing, settle, stage


def snapshot(state: State, *kinds: str, session_id: str = "1") -> Snapshot:
    """A session in a state, with events of these kinds; the levels are those that the engine gives."""
    row = SessionRow(
        id=session_id, name="otter", state=state, preset="tiny", created_at=0, updated_at=0, ended_at=None,
        phase=None, error=None, note="", pinned=False, lease=None, owner=None,
    )  # fmt: skip
    events = tuple(
        EventRow(
            id=number, session_id=session_id, at=0, phase=None, step=None, kind=kind,
            message=f"{kind} {number}",
            level="warning" if kind == "disk" else "info",
        )
        for number, kind in enumerate(kinds, 1)
    )  # fmt: skip
    return Snapshot(session=row, events=events)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (snapshot(State.RUNNING), snapshot(State.COMPLETED), "otter is completed"),
        (snapshot(State.RUNNING), snapshot(State.FAILED), "otter is failed"),
        (snapshot(State.PAUSED), snapshot(State.INTERRUPTED), "otter is interrupted"),
        (snapshot(State.RUNNING, "phase"), snapshot(State.PAUSED, "phase", "disk"), "disk 2"),
        # By whoever sits at another terminal:
        (snapshot(State.RUNNING), snapshot(State.STOPPED), "otter is stopped"),
        # What a person asked for:
        (snapshot(State.RUNNING, "disk"), snapshot(State.PAUSED, "disk", "pause"), None),
        # What had happened before anyone looked:
        (snapshot(State.COMPLETED), snapshot(State.COMPLETED), None),
        (Snapshot(), snapshot(State.FAILED), None),
        (snapshot(State.RUNNING), snapshot(State.FAILED, session_id="2"), None),
        (snapshot(State.RUNNING), Snapshot(), None),
    ],
)
def test_what_calls_a_person(before: Snapshot, after: Snapshot, text: str | None) -> None:
    assert alarm(before, after) == text


@pytest.mark.parametrize(
    ("settings", "how"),
    [([], "bell"), (["notify.terminal=osc9"], "osc9"), (["notify.terminal=none"], "none")],
)
async def test_the_screen_calls_once_as_the_home_says(
    fresh_home: Home, monkeypatch: pytest.MonkeyPatch, settings: list[str], how: str
) -> None:
    seed(fresh_home, Plan())
    change_settings(fresh_home.settings, settings)
    rung: list[tuple[str, str]] = []
    monkeypatch.setattr(ForgeApp, "ring", lambda app, how, text: rung.append((how, text)))
    app = stage(fresh_home)
    async with playing(app) as pilot:
        with Registry.open(fresh_home) as registry:
            registry.write(lambda c: edits.set_session_state(c, FIRST, State.COMPLETED, now=NOW))
        await settle(pilot)
        await settle(pilot)
    assert [each for each, _ in rung] == [how]
    assert rung[0][1].endswith(" is completed")


async def test_settings_that_cannot_be_read_ring_the_bell(
    fresh_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(fresh_home, Plan())
    fresh_home.settings.write_text("notify: loud\n", "utf-8")
    rung: list[str] = []
    monkeypatch.setattr(ForgeApp, "ring", lambda app, how, text: rung.append(how))
    app = stage(fresh_home)
    async with playing(app) as pilot:
        with Registry.open(fresh_home) as registry:
            registry.write(lambda c: edits.set_session_state(c, FIRST, State.FAILED, now=NOW))
        await settle(pilot)
    assert rung == ["bell"]


class Driver(SimpleNamespace):
    """Where frames go."""

    is_headless = False

    def __init__(self) -> None:
        super().__init__(written=[])

    def write(self, data: str) -> None:
        """Remember it."""
        self.written.append(data)


def test_it_goes_through_the_writer_of_the_frames_and_nothing_in_it_ends_it_early() -> None:
    app, driver = Shell(ascii_only=True), Driver()
    app.ring("bell", "nobody listens yet")
    app._driver = cast(Any, driver)
    app.ring("bell", "x")
    app.ring("osc9", "ot\x1b\\ter\x07\x9c is failed")
    app.ring("none", "x")
    assert driver.written == ["\a", "\x1b]9;Forge: ot\\x1b\\ter\\x07\\x9c is failed\a", ""]
