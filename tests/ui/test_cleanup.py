"""The cleanup screen: the plan that `forge clean` makes, carried out after a yes, and the way back."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from textual.widgets import Input

from forge import locks
from forge.config import change_settings, load_settings, save_policy
from forge.home import Home
from forge.registry import Registry, SessionRow, State, cleanup, edits
from forge.retention import Decision, Outcome, Plan, SessionCleanupPolicy, decide, execute, plan
from forge_tui.app import ForgeApp
from forge_tui.screens.cleanup import CleanupScreen
from forge_tui.screens.confirm import ConfirmDialog
from forge_tui.screens.dashboard import DashboardScreen
from forge_tui.screens.sessions import SessionsScreen
from forge_tui.services.cleanup import LEAST_SECONDS, OLD_SECONDS, Rhythm
from tests.e2e.terminal import Desk
from tests.ui import homes
from tests.ui.homes import ulid
from tests.ui.seed import NOW
from tests.ui.stage import LARGE, SMALL, FakeClock, Stage, playing, press, said, settle, shown, stage

Seeded = Callable[[str], Home]


@pytest.fixture
def old_home(tmp_path: Path) -> Home:
    """A home to clean up that a test may change."""
    return homes.make("old", tmp_path / "home")


def screen_of(app: ForgeApp) -> CleanupScreen:
    assert isinstance(app.screen, CleanupScreen)
    return app.screen


def plan_of(app: ForgeApp) -> Plan:
    found = screen_of(app)._plan
    assert found is not None
    return found


def states(home: Home) -> dict[str, State]:
    with Registry.open(home) as registry:
        return dict(registry.fetch(cleanup.session_states()))


async def type_into(pilot: Stage, name: str, text: str) -> None:
    """Replace what stands in a field."""
    pilot.app.screen.set_focus(pilot.app.screen.query_one(f"#{name}", Input))
    await press(pilot, "end", "ctrl+u")
    if text:
        await press(pilot, f"={text}")


# --- looking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [("C",), ("L", "C")])
async def test_it_is_reached_from_dashboard_and_list(seeded: Seeded, keys: tuple[str, ...]) -> None:
    app = stage(seeded("old"))
    async with playing(app) as pilot:
        await press(pilot, *keys)
        seen = [type(app.screen)]
        for more in (("L",), ("C",), ("d",)):
            await press(pilot, *more)
            seen.append(type(app.screen))
        assert seen == [CleanupScreen, SessionsScreen, CleanupScreen, DashboardScreen]


async def test_the_plan_is_the_one_that_the_command_line_makes(seeded: Seeded) -> None:
    home = seeded("old")
    app = stage(home)
    async with playing(app) as pilot:
        await press(pilot, "C")
        with Registry(home.registry, read_only=True) as registry:
            assert plan_of(app) == plan(home, registry, SessionCleanupPolicy(), NOW)
        seen = shown(app)
        for decision in plan_of(app).decisions:
            assert decision.session.name in seen


async def test_typing_a_policy_makes_its_plan(seeded: Seeded) -> None:
    app = stage(seeded("old"))
    async with playing(app) as pilot:
        await press(pilot, "C")
        before = len(plan_of(app).to_trash)
        await type_into(pilot, "max_sessions_retained", "3")
        assert plan_of(app).policy.max_sessions_retained == 3
        assert len(plan_of(app).to_trash) > before
        await type_into(pilot, "keep_tags", "paper, best,")
        assert plan_of(app).policy.keep_tags == ("paper", "best")
        await press(pilot, "enter")
        assert app.screen.focused is not None
        assert app.screen.focused.id == "decisions"


async def test_a_policy_that_limits_nothing_is_refused_beside_its_field(seeded: Seeded) -> None:
    app = stage(seeded("old"))
    async with playing(app) as pilot:
        await press(pilot, "C")
        for name in ("max_sessions_retained", "max_age_days", "max_failed_age_days"):
            await type_into(pilot, name, "")
        line = next(line for line in shown(app).splitlines() if "newest to keep" in line)
        assert "! no limit is set: nothing to clean by" in line
        await press(pilot, "escape", "x")
        assert isinstance(app.screen, CleanupScreen)
        assert "the policy has a problem" in said(app)


async def test_the_plan_follows_the_registry_and_the_clock(
    old_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge_tui.services.cleanup.SHARE", math.inf)
    clock = FakeClock()
    app = stage(old_home, clock=clock)
    async with playing(app) as pilot:
        await press(pilot, "C")
        going = plan_of(app).to_trash[0].session
        with Registry.open(old_home) as registry:
            registry.write(lambda c: edits.set_pinned(c, going.id, True))
        await settle(pilot)
        clock.now += LEAST_SECONDS
        await settle(pilot)
        assert going.id not in {d.session.id for d in plan_of(app).to_trash}
        made = plan_of(app)
        clock.now += OLD_SECONDS
        await settle(pilot)
        assert plan_of(app).now > made.now


def test_what_costs_much_is_done_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((0.0, 3.0))
    monkeypatch.setattr("forge_tui.services.cleanup.time.monotonic", lambda: next(ticks))
    rhythm = Rhythm()
    assert rhythm.due(1000.0)
    rhythm.begin()
    rhythm.end(1003.0)
    rhythm.change()
    assert not rhythm.due(1003.0 + 59)
    assert rhythm.due(1003.0 + 60)
    rhythm.hurry()
    assert rhythm.due(1003.0)


async def test_a_broken_registry_is_told(fresh_home: Home) -> None:
    fresh_home.registry.write_bytes(b"not a registry" * 100)
    app = stage(fresh_home)
    async with playing(app) as pilot:
        await press(pilot, "C")
        assert "the registry" in shown(app).splitlines()[0]
        # The rest stands there where the path leaves room for it.
        assert "to the trash" not in shown(app)


async def test_the_reason_under_the_cursor_is_told_in_full(seeded: Seeded) -> None:
    app = stage(seeded("old"))
    async with playing(app, SMALL) as pilot:
        await press(pilot, "C")
        place = next(i for i, d in enumerate(plan_of(app).decisions) if "resumed from" in d.reason)
        await press(pilot, *("j" * place))
        assert "it can be resumed from its last checkpoint, and is younger than 30 days" in shown(app)


async def test_the_policy_is_that_of_the_home_and_can_be_kept(old_home: Home) -> None:
    save_policy(old_home.settings, SessionCleanupPolicy(max_sessions_retained=4, keep_tags=("paper",)))
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C", "w")
        assert "that of this home already" in said(app)
        assert plan_of(app).policy.max_sessions_retained == 4
        assert app.screen.query_one("#keep_tags", Input).value == "paper"
        await type_into(pilot, "max_sessions_retained", "6")
        change_settings(old_home.settings, ["retention.max_age_days=90", "retention.auto=false"])
        await press(pilot, "escape", "w")
        kept = load_settings(old_home.settings).retention
        assert kept.policy == plan_of(app).policy
        assert (kept.max_sessions_retained, kept.max_age_days, kept.auto) == (6, 30, False)
        assert "every cleanup of this home goes by it from now on" in shown(app)
        assert "by hand" in shown(app)


async def test_settings_that_cannot_be_read_are_told(old_home: Home) -> None:
    old_home.settings.write_text("retention: {max_age_days: -1}")
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C")
        assert "settings.yaml" in shown(app).splitlines()[0]
        await press(pilot, "x")
        assert isinstance(app.screen, CleanupScreen)


# --- doing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["enter", "escape", "n"])
async def test_nothing_is_moved_unless_yes_is_said(old_home: Home, answer: str) -> None:
    before = states(old_home)
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C", "x")
        assert isinstance(app.screen, ConfirmDialog)
        await press(pilot, answer)
        assert isinstance(app.screen, CleanupScreen)
    assert states(old_home) == before


async def test_a_cleanup_and_its_undo(old_home: Home) -> None:
    before = states(old_home)
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C")
        going = [d.session for d in plan_of(app).to_trash]
        assert going
        await press(pilot, "x", "y")
        assert all(states(old_home)[row.id] is State.TRASHED for row in going)
        assert all(old_home.trashed(row.id).root.is_dir() for row in going)
        assert "moved into the trash; u undoes it" in shown(app)
        assert not plan_of(app).to_trash
        await press(pilot, "x")
        assert "nothing to clean" in said(app)
        await press(pilot, "u")
        assert states(old_home) == before
        assert "back" in shown(app)
        assert {d.session.id for d in plan_of(app).to_keep} >= {row.id for row in going}
        await press(pilot, "u")
        assert "nothing was cleaned up here yet" in said(app)


async def test_what_was_pinned_after_the_question_stays_and_says_why(old_home: Home) -> None:
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C")
        going = [d.session for d in plan_of(app).to_trash]
        await press(pilot, "x")
        with Registry.open(old_home) as registry:
            registry.write(lambda c: edits.set_pinned(c, going[0].id, True))
        await press(pilot, "y")
        assert f"{going[0].name} stays: it is pinned" in shown(app)
        assert states(old_home)[going[0].id] is not State.TRASHED
        decision = next(d for d in plan_of(app).to_keep if d.session.id == going[0].id)
        assert decision.reason == "it is pinned"


async def test_the_session_under_the_cursor_of_the_trash_comes_back(old_home: Home) -> None:
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C", "u")
        assert "tab goes to the trash" in said(app)
        await press(pilot, "tab", "j", "u")
        assert states(old_home)[ulid(4)] is State.FAILED
        assert states(old_home)[ulid(1)] is State.TRASHED
        assert "golden-ibis-55 is back" in shown(app)


@pytest.mark.parametrize(("answer", "gone"), [("enter", False), ("y", True)])
async def test_one_session_is_deleted_for_good(old_home: Home, answer: str, gone: bool) -> None:
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C", "D")
        assert "tab goes to the trash" in said(app)
        await press(pilot, "tab", "D")
        assert "Delete calm-heron-40 (385 MB) for good?" in shown(app)
        await press(pilot, answer)
        assert (ulid(1) not in states(old_home)) is gone
        assert ("1 session deleted; 385 MB freed" in shown(app)) is gone
    assert ulid(4) in states(old_home)


async def test_the_trash_is_emptied(old_home: Home) -> None:
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C", "E", "y")
        assert not {ulid(1), ulid(4)} & set(states(old_home))
        assert "2 sessions deleted" in shown(app)
        assert "trash · empty" in shown(app)
        for key in ("E", "u"):
            await press(pilot, key)
            assert "the trash is empty" in said(app)


async def test_what_cannot_be_done_is_told(old_home: Home) -> None:
    app = stage(old_home)
    async with playing(app) as pilot:
        with locks.hold(old_home.cleanup_lock) as mine:
            assert mine
            await press(pilot, "C", "x", "y")
        assert "another process is cleaning up" in said(app)
        assert plan_of(app).to_trash
        await press(pilot, "x")
        assert isinstance(app.screen, ConfirmDialog)


async def test_one_thing_at_a_time(old_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C", "x")
        monkeypatch.setattr("forge.retention.execute", _slow(held))
        await pilot.press("y")
        await pilot.pause()
        await pilot.press("x")
        await pilot.pause()
        assert "just being moved or deleted" in said(app)
        held.set()
        await settle(pilot)


async def test_what_is_typed_is_not_done_before_its_plan_is_shown(
    old_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()

    def slow(*arguments: Any) -> Plan:
        assert held.wait(30)
        return decide(*arguments)

    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C", "e")
        monkeypatch.setattr("forge_tui.screens.cleanup.decide", slow)
        await pilot.press("end", "ctrl+u", "2", "enter", "x")
        await pilot.pause()
        assert "the plan is just being made" in said(app)
        assert isinstance(app.screen, CleanupScreen)
        held.set()
        await settle(pilot)
        await press(pilot, "x")
        assert isinstance(app.screen, ConfirmDialog)
        assert plan_count(app) in shown(app)


def plan_count(app: ForgeApp) -> str:
    (screen,) = (each for each in app.screen_stack if isinstance(each, CleanupScreen))
    assert screen._plan is not None
    assert screen._plan.policy.max_sessions_retained == 2
    return f"Move {len(screen._plan.to_trash)} sessions"


async def test_whoever_leaves_meanwhile_loses_nothing(
    old_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "C")
        going = [d.session.id for d in plan_of(app).to_trash]
        monkeypatch.setattr("forge.retention.execute", _slow(held))
        await pilot.press("x", "y", "d")
        await pilot.pause()
        assert isinstance(app.screen, DashboardScreen)
        held.set()
        await settle(pilot)
        assert {states(old_home)[each] for each in going} == {State.TRASHED}
        await press(pilot, "C", "tab", "u")
        assert State.TRASHED not in {states(old_home)[going[-1]]}


def _slow(held: threading.Event) -> Callable[..., Outcome]:
    def slow(*arguments: Any, **named: Any) -> Outcome:
        assert held.wait(30)
        return execute(*arguments, **named)

    return slow


@pytest.mark.parametrize("keys", [("L", "p"), ("C", "p")])
async def test_p_pins_and_unpins(old_home: Home, keys: tuple[str, ...]) -> None:
    app = stage(old_home)

    def pinned() -> set[str]:
        with Registry.open(old_home) as registry:
            return {row.session.name for row in registry.fetch(cleanup.candidates()) if row.session.pinned}

    before = pinned()
    async with playing(app) as pilot:
        await press(pilot, *keys)
        (name,) = pinned() - before
        assert "pinned" in next(line for line in shown(app).splitlines() if name in line)

        await press(pilot, "p")
        assert pinned() == before


async def test_looking_only_changes_nothing(seeded: Seeded) -> None:
    app = stage(seeded("old"), engine=None, readonly=True)
    async with playing(app) as pilot:
        await press(pilot, "C")
        assert plan_of(app).to_trash
        for key in ("x", "u", "D", "E", "p"):
            await press(pilot, key)
            assert "--readonly" in said(app)
        assert isinstance(app.screen, CleanupScreen)


@pytest.mark.proofs  # on a busy machine a key may come before the screen does
def test_the_real_engine_cleans_up_in_a_terminal(old_home: Home, desk: Desk) -> None:
    # By number alone, which is the same whatever the time of the machine is.
    save_policy(
        old_home.settings,
        SessionCleanupPolicy(max_sessions_retained=3, max_age_days=None, max_failed_age_days=None),
    )
    screen = desk.open(sys.executable, "-m", "forge_tui", env={"FORGE_HOME": str(old_home.root)})
    screen.wait_for("swift-otter-12")
    screen.press("C")
    screen.wait_for("newest to keep", "verdict", "keep")
    screen.press("e", "\x15", "1", "\r")
    screen.wait_for("number 2 from the newest")
    screen.press("x")
    screen.wait_for("to the trash?")
    screen.press("y")
    screen.wait_for("moved into the trash; u undoes it")
    gone = {id for id, state in states(old_home).items() if state is State.TRASHED} - {ulid(1), ulid(4)}
    assert gone
    assert all(old_home.trashed(each).root.is_dir() for each in gone)
    screen.press("u")
    screen.wait_for("back; cleanup leaves")
    assert not gone & {id for id, state in states(old_home).items() if state is State.TRASHED}
    screen.press("q")
    assert screen.ended() == 0


# --- going about ----------------------------------------------------------------------------------------


async def test_the_parts_go_round(seeded: Seeded) -> None:
    app = stage(seeded("old"))
    async with playing(app) as pilot:
        await press(pilot, "C")
        parts = [screen_of(app)._part]
        for key in ("tab", "tab", "tab", "shift+tab", "shift+tab", "shift+tab", "e"):
            await press(pilot, key)
            parts.append(screen_of(app)._part)
        assert parts == ["plan", "trash", "policy", "plan", "policy", "trash", "plan", "policy"]
        await press(pilot, "down", "down")
        assert app.screen.focused is not None
        assert app.screen.focused.id == "max_failed_age_days"
        await press(pilot, "up", "x")
        assert app.screen.query_one("#max_age_days", Input).value == "30x"
        await press(pilot, "escape", "escape")
        assert isinstance(app.screen, DashboardScreen)


async def test_a_low_screen_shows_the_part_in_focus(seeded: Seeded) -> None:
    app = stage(seeded("old"))
    async with playing(app, (60, 16)) as pilot:
        await press(pilot, "C")
        assert "newest to keep" not in shown(app)
        await press(pilot, "tab")
        assert "trash · 2 sessions" in shown(app)
        assert "calm-heron-40" in shown(app)
        await press(pilot, "tab")
        assert "newest to keep" in shown(app)
        assert "dapper-wren-19" in shown(app)


async def test_enter_opens_the_session_under_the_cursor(seeded: Seeded) -> None:
    app = stage(seeded("old"))
    async with playing(app) as pilot:
        await press(pilot, "C", "G")
        last = plan_of(app).decisions[-1].session
        await press(pilot, "enter")
        assert isinstance(app.screen, DashboardScreen)
        assert app.feed.session_id == last.id


async def test_ten_thousand_sessions(seeded: Seeded) -> None:
    app = stage(seeded("crowd"))
    async with playing(app, LARGE) as pilot:
        await press(pilot, "C")
        assert len(plan_of(app).decisions) == 10_000
        rows = screen_of(app)._decisions
        drawn: list[str] = []
        real = rows._line

        def line(decision: Decision, width: int, chosen: bool) -> Text:
            drawn.append(decision.session.id)
            return real(decision, width, chosen)

        rows._line = line
        await press(pilot, "G")
        assert rows.cursor == 9_999
        assert 0 < len(drawn) <= 4 * rows.size.height
        assert plan_of(app).decisions[-1].session.name in shown(app)


async def test_ascii_and_resizing(seeded: Seeded) -> None:
    app = stage(seeded("old"), ascii_only=True)
    async with playing(app, SMALL) as pilot:
        await press(pilot, "C")
        assert shown(app).isascii()
        assert any(set(line.strip()) == set("#%=-.") for line in shown(app).splitlines())
        await pilot.resize_terminal(*LARGE)
        await settle(pilot)
        resized = shown(app)
    fresh = stage(seeded("old"), ascii_only=True)
    async with playing(fresh, LARGE) as pilot:
        await press(pilot, "C")
        assert shown(fresh) == resized


# --- labels ---------------------------------------------------------------------------------------------


def labels(home: Home, id: str) -> tuple[str, tuple[str, ...], str, float]:
    with Registry.open(home) as registry:
        found = registry.fetch(cleanup.candidates(id))[0]
        return found.session.name, found.tags, found.session.note, found.session.updated_at


async def test_name_tags_and_note_are_changed_in_the_list(old_home: Home) -> None:
    before = labels(old_home, ulid(10))
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "L", "m", "=paper, best", "tab", "=good, one", "enter")
        assert labels(old_home, ulid(10)) == (before[0], ("best", "paper"), "good, one", before[3])
        assert "swift-otter-12  #best  #paper  good, one" in shown(app)
        await press(pilot, "slash", "=best", "enter")
        assert shown(app).splitlines()[0].startswith(" sessions · 1 ·")
        await press(pilot, "m", "shift+tab", "end", "ctrl+u", "enter")
        assert "! name: a session needs one" in shown(app)
        await press(pilot, "=calm-heron-40", "enter")
        assert labels(old_home, ulid(10))[0] == "calm-heron-40-2"


async def test_labels_that_are_left_stay_as_they_are(seeded: Seeded) -> None:
    app = stage(seeded("hostile"))
    home = seeded("hostile")
    before = labels(home, ulid(0))
    async with playing(app) as pilot:
        await press(pilot, "L", "G", "m", "=x", "escape")
        assert isinstance(app.screen, SessionsScreen)
        await press(pilot, "m", "enter")
        assert labels(home, ulid(0)) == before
    app = stage(seeded("old"), engine=None, readonly=True)
    async with playing(app) as pilot:
        await press(pilot, "L", "m")
        assert "--readonly" in said(app)


# --- one session, from the list -------------------------------------------------------------------------


def trash_reason(home: Home, id: str) -> str:
    with Registry.open(home) as registry:
        return next(row.reason for row in registry.fetch(cleanup.trash()) if row.session_id == id)


async def test_one_session_goes_to_the_trash_from_the_list_and_comes_back(old_home: Home) -> None:
    before = states(old_home)
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "L")
        await press(pilot, "u")
        assert "nothing was moved to the trash here" in said(app)
        while before[selected(app).id] is not State.COMPLETED:
            await press(pilot, "j")
        row = selected(app)
        await press(pilot, "D")
        assert isinstance(app.screen, ConfirmDialog)
        assert f"Move {row.name} (completed" in app.screen._question
        await press(pilot, "enter")
        assert states(old_home) == before

        await press(pilot, "D", "y")
        assert states(old_home) == {**before, row.id: State.TRASHED}
        assert old_home.trashed(row.id).root.is_dir()
        assert trash_reason(old_home, row.id) == "a person chose it"
        assert f"{row.name} (" in said(app)
        assert "is in the trash; u brings it back" in said(app)
        assert selected(app).id != row.id

        await press(pilot, "u")
        assert states(old_home) == before
        assert old_home.session(row.id).root.is_dir()
        assert f"{row.name} is back" in said(app)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_is_protected_does_not_go_from_the_list_either(old_home: Home, when: str) -> None:
    def pin(id: str) -> None:
        with Registry.open(old_home) as registry:
            registry.write(lambda c: edits.set_pinned(c, id, True))

    before = states(old_home)
    app = stage(old_home)
    async with playing(app) as pilot:
        await press(pilot, "L")
        while before[selected(app).id] is not State.COMPLETED:
            await press(pilot, "j")
        row = selected(app)
        if when == "before":
            pin(row.id)
        await press(pilot, "D")
        if when == "after":
            pin(row.id)
            await press(pilot, "y")
        assert isinstance(app.screen, SessionsScreen)
        assert f"{row.name} stays: it is pinned" in said(app)
        assert states(old_home) == before


async def test_what_runs_does_not_go_from_the_list(seeded: Seeded) -> None:
    app = stage(seeded("running"))
    async with playing(app) as pilot:
        await press(pilot, "L", "D")
        assert "the session is running; stop it first" in said(app)
    app = stage(seeded("old"), engine=None, readonly=True)
    async with playing(app) as pilot:
        await press(pilot, "L", "D")
        assert "--readonly" in said(app)


def selected(app: ForgeApp) -> SessionRow:
    assert isinstance(app.screen, SessionsScreen)
    row = app.screen.listing.selected
    assert row is not None
    return row
