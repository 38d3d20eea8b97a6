"""What a person does with the keyboard, and what the engine is asked for; the engine only remembers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from textual import events
from textual.widgets import Input

from forge.config import PipelineConfig
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import Registry, State, edits
from forge_tui.app import KEPT, RECONCILE_SECONDS, STOPPED
from forge_tui.charts.widget import ChartView
from forge_tui.ports import CLOSED
from forge_tui.screens.base import TooSmall
from forge_tui.screens.confirm import ConfirmDialog
from forge_tui.screens.dashboard import DashboardScreen
from forge_tui.screens.help import HelpDialog
from forge_tui.screens.new import TRAINED, NewSessionScreen
from forge_tui.screens.quit import QuitDialog
from forge_tui.screens.sessions import SessionsScreen
from forge_tui.widgets.pane import Pane
from forge_tui.widgets.textpane import TextPane
from tests.ui.homes import ulid
from tests.ui.seed import BRANCHED, EVENTS, FIRST, NOW, PRESETS, TINY, FakeEngine, Plan, seed
from tests.ui.stage import (
    LARGE,
    SMALL,
    FakeClock,
    engine_of,
    forge_app,
    playing,
    press,
    said,
    settle,
    shown,
    stage,
)

Seeded = Callable[[str], Home]


# --- quitting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["q", "ctrl+q", "ctrl+c"])
async def test_without_a_run_here_quitting_asks_nothing(seeded: Seeded, key: str) -> None:
    app = stage(seeded("running"))
    async with playing(app) as pilot:
        await pilot.press(key)
    assert app.return_value == STOPPED
    assert engine_of(app).calls == []


@pytest.mark.parametrize(
    ("keys", "answer", "stopped"),
    [
        (("s",), STOPPED, True),
        (("j", "enter"), STOPPED, True),
        (("b",), KEPT, False),
        (("up", "enter"), KEPT, False),
        (("tab", "right", "enter"), KEPT, False),
    ],
)
async def test_a_run_here_is_asked_about(
    seeded: Seeded, keys: tuple[str, ...], answer: str, stopped: bool
) -> None:
    app = stage(seeded("running"), engine=FakeEngine(hosting=FIRST))
    async with playing(app) as pilot:
        await press(pilot, "q")
        assert isinstance(app.screen, QuitDialog)
        assert "swift-otter-12 is running in this program" in shown(app)
        await pilot.press(*keys)
        for worker in [w for w in app.workers if w.name != "pulse"]:
            await worker.wait()
    assert app.return_value == answer
    assert engine_of(app).calls == ([("shutdown", False)] if stopped else [])


@pytest.mark.parametrize("key", ["q", "ctrl+q", "ctrl+c"])
@pytest.mark.parametrize("way", [(), ("L",), ("n",), ("question_mark",), ("L", "slash")])
async def test_every_way_out_asks_about_a_run_here(seeded: Seeded, key: str, way: tuple[str, ...]) -> None:
    typed = key == "q" and way == ("L", "slash")
    app = stage(seeded("running"), engine=FakeEngine(hosting=FIRST))
    async with playing(app) as pilot:
        await press(pilot, *way, key)
        if key == "q" and way == ("question_mark",):
            # It closes the help; the next one asks.
            await press(pilot, key)
        assert isinstance(app.screen, QuitDialog) != typed
        assert engine_of(app).calls == []


@pytest.mark.parametrize("keys", [("escape",), ("enter",), ("ctrl+c",)])
async def test_the_answer_at_hand_changes_nothing(seeded: Seeded, keys: tuple[str, ...]) -> None:
    app = stage(seeded("running"), engine=FakeEngine(hosting=FIRST))
    async with playing(app) as pilot:
        await press(pilot, "q", *keys)
        assert isinstance(app.screen, DashboardScreen)
        assert engine_of(app).calls == []


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, False),
        ({"SSH_CONNECTION": "::1 1 ::1 22"}, True),
        ({"SSH_CONNECTION": "::1 1 ::1 22", "TMUX": "/tmp/tmux"}, False),
        ({"SSH_CONNECTION": "::1 1 ::1 22", "STY": "screen"}, False),
    ],
)
async def test_over_a_bare_link_it_says_once_that_closing_it_is_safe(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = stage(seeded("running"), engine=FakeEngine())
    async with playing(app) as pilot:
        assert "Closing this link is safe" not in said(app)
        engine_of(app).hosting = FIRST
        await settle(pilot)
        assert ("Closing this link is safe" in said(app)) == told
        app.clear_notifications()
        for hosting in (None, FIRST):
            engine_of(app).hosting = hosting
            await settle(pilot)
        assert "Closing this link is safe" not in said(app)


async def test_while_a_run_stops_the_screen_can_be_left(seeded: Seeded) -> None:
    held = threading.Event()

    class Slow(FakeEngine):
        def shutdown(self, *, keep_training: bool, reason: str = CLOSED) -> None:
            held.wait(30)
            super().shutdown(keep_training=keep_training)

    app = stage(seeded("running"), engine=Slow(hosting=FIRST))
    try:
        async with playing(app) as pilot:
            await press(pilot, "q")
            await pilot.press("s")
            await pilot.pause()
            assert "stops at its next step" in shown(app)
            await pilot.press("escape", "n")
            assert isinstance(app.screen, QuitDialog)
            await pilot.press("b")
        assert app.return_value == KEPT
    finally:
        held.set()


# --- steering -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("home", "key", "call"),
    [
        ("running", "space", ("request", FIRST, "pause")),
        ("paused", "space", ("request", FIRST, "resume")),
        ("running", "s", ("request", FIRST, "stop")),
        ("running", "c", ("request", FIRST, "checkpoint")),
        ("stopped", "r", ("resume", FIRST)),
        ("paused", "r", ("resume", FIRST)),
        ("interrupted", "r", ("resume", FIRST)),
        ("failed", "r", ("resume", FIRST)),
        ("created", "r", ("resume", FIRST)),
    ],
)
async def test_keys_steer_the_session_on_the_dashboard(
    seeded: Seeded, home: str, key: str, call: tuple[str, ...]
) -> None:
    app = stage(seeded(home))
    async with playing(app) as pilot:
        await press(pilot, key)
    assert engine_of(app).calls == [call]


@pytest.mark.parametrize(
    ("home", "keys", "reason"),
    [
        ("running", "r", "r: the session is running already"),
        ("finished", "r", "r: the session is completed; n makes a new one"),
        ("stopped", "space", "space: nothing runs: the session is stopped; r goes on with it"),
        ("finished", "s", "s: nothing runs: the session is completed"),
        ("starting", "c", "c: the session is just starting; a moment"),
        ("starting", "r", "r: the session is just starting"),
        ("empty", "space", "space: there is no session here yet; n makes one"),
        ("empty", "z", "z: there is no session here yet; n makes one"),
        ("empty", "1", "1: there are no phases to look at yet"),
        ("empty", "tab", "there is no pane to go to yet"),
        ("running", "7", "7: this session has 2 phases"),
        ("running", "slash", "/ (filter) works on the sessions screen"),
        ("running", "o", "o (sort) works on the sessions screen"),
    ],
)
async def test_a_key_that_does_nothing_says_why(seeded: Seeded, home: str, keys: str, reason: str) -> None:
    app = stage(seeded(home))
    async with playing(app) as pilot:
        await press(pilot, keys)
        assert said(app) == reason
        assert engine_of(app).calls == []


async def test_looking_only_steers_nothing(seeded: Seeded) -> None:
    app = stage(seeded("running"), engine=None, readonly=True)
    async with playing(app) as pilot:
        for key in ("n", "space", "s", "r", "c"):
            await press(pilot, key)
            assert "--readonly" in said(app)
        assert isinstance(app.screen, DashboardScreen)


async def test_another_session_that_runs_here_is_not_in_the_way(seeded: Seeded) -> None:
    app = stage(seeded("stopped"), engine=FakeEngine(hosting="01JABCDEFGHJKMNPQRSTVWXYZ9"))
    async with playing(app) as pilot:
        await press(pilot, "r")
        assert said(app) == ""
        await press(pilot, "n")
        assert "starts in a process of its own, because another runs in this program" in shown(app)
        await press(pilot, "ctrl+s")
    assert engine_of(app).calls == [("resume", FIRST), ("create", "tiny", None), ("start", FIRST)]


async def test_a_form_can_ask_for_a_process_of_its_own(seeded: Seeded) -> None:
    made: list[PipelineConfig] = []

    class Keeping(FakeEngine):
        def create(self, config: PipelineConfig, name: str | None = None) -> str:
            made.append(config)
            return super().create(config, name)

    app = stage(seeded("finished"), engine=Keeping())
    async with playing(app) as pilot:
        await press(pilot, "n")
        assert "starts in this program" in shown(app)
        await press(pilot, "shift+tab", "right")
        assert "starts in a process of its own, which outlives this program" in shown(app)
        await press(pilot, "ctrl+s")
    assert [config.runtime.host for config in made] == ["process"]


async def test_q_does_not_ask_about_a_run_in_another_process(seeded: Seeded) -> None:
    app = stage(seeded("running"))
    async with playing(app) as pilot:
        assert "in this program" not in shown(app)
        await press(pilot, "q")
    assert app.return_value == STOPPED
    assert engine_of(app).calls == []


async def test_asking_twice_asks_once(seeded: Seeded) -> None:
    held = threading.Event()

    class Slow(FakeEngine):
        def request(self, session_id: str, kind: str, **args: object) -> None:
            held.wait(30)
            super().request(session_id, kind, **args)

    app = stage(seeded("running"), engine=Slow())
    async with playing(app) as pilot:
        await pilot.press("c", "c", "c")
        held.set()
        await settle(pilot)
    assert engine_of(app).calls == [("request", FIRST, "checkpoint")]


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (ForgeError("swift-otter-12 is run elsewhere."), "swift-otter-12 is run elsewhere."),
        (RuntimeError("\x1b[2Jboom"), "stop failed: RuntimeError: \\x1b[2Jboom"),
    ],
)
async def test_what_the_engine_refuses_is_told(seeded: Seeded, failure: Exception, sentence: str) -> None:
    app = stage(seeded("running"), engine=FakeEngine(fail=failure))
    async with playing(app) as pilot:
        await press(pilot, "s")
        assert said(app) == sentence


async def test_dead_owners_are_looked_for_every_few_seconds(seeded: Seeded) -> None:
    asked: list[float] = []
    clock = FakeClock()

    class Watching(FakeEngine):
        def reconcile(self) -> list[str]:
            asked.append(clock.now)
            return []

    app = stage(seeded("running"), engine=Watching(), clock=clock)
    async with playing(app) as pilot:
        for _ in range(4):
            clock.now += RECONCILE_SECONDS / 2
            await settle(pilot)
    assert asked == [NOW, NOW + RECONCILE_SECONDS, NOW + 2 * RECONCILE_SECONDS]


async def test_what_the_registry_has_to_say_is_said_once(seeded: Seeded) -> None:
    engine = FakeEngine()
    engine.notice = "the registry is newer than this program"  # type: ignore[attr-defined]
    app = stage(seeded("running"), engine=engine)
    async with playing(app) as pilot:
        assert said(app) == "the registry is newer than this program"
        app.clear_notifications()
        await press(pilot, "c")
        assert said(app) == ""


# --- making a session -----------------------------------------------------------------------------------


async def test_a_form_is_filled_and_started(seeded: Seeded) -> None:
    app = stage(seeded("finished"))
    async with playing(app) as pilot:
        await press(pilot, "n")
        assert isinstance(app.screen, NewSessionScreen)
        await press(pilot, "tab", "=my run", "ctrl+s")
        assert engine_of(app).calls == [("create", "tiny", "my run"), ("start", FIRST)]
        assert isinstance(app.screen, DashboardScreen)
        assert app.feed.session_id == FIRST


async def test_a_form_with_a_problem_is_not_started(seeded: Seeded) -> None:
    app = stage(seeded("empty"))
    async with playing(app) as pilot:
        await press(pilot, "n", "tab", "tab", "=x", "ctrl+s")
        assert "the form has a problem" in said(app)
        assert engine_of(app).calls == []
        assert isinstance(app.screen, NewSessionScreen)


async def test_a_start_that_fails_keeps_the_form(seeded: Seeded) -> None:
    app = stage(seeded("empty"), engine=FakeEngine(fail=ForgeError("the disk is full.")))
    async with playing(app) as pilot:
        await press(pilot, "n", "tab", "=my run", "f5")
        assert said(app) == "the disk is full."
        assert isinstance(app.screen, NewSessionScreen)
        assert app.screen.query_one("#name", Input).value == "my run"


async def test_keys_of_the_form_are_typed_into_its_fields(seeded: Seeded) -> None:
    app = stage(seeded("empty"))
    async with playing(app) as pilot:
        await press(pilot, "n", "tab")
        await pilot.press(*"q?ns")
        assert app.screen.query_one("#name", Input).value == "q?ns"
        await press(pilot, "f1")
        assert isinstance(app.screen, HelpDialog)
        await press(pilot, "escape", "escape")
        assert isinstance(app.screen, DashboardScreen)
    assert engine_of(app).calls == []


async def test_a_preset_fills_the_form_and_keeps_name_and_corpus(seeded: Seeded) -> None:
    app = stage(seeded("empty"))
    async with playing(app) as pilot:
        await press(pilot, "n", "tab", "=mine", "shift+tab", "left")
        screen = app.screen
        assert screen.query_one("#pretrain", Input).value == "4000"
        assert screen.query_one("#vram", Input).value == "6"
        assert screen.query_one("#name", Input).value == "mine"
        await press(pilot, "right")
        assert screen.query_one("#pretrain", Input).value == "500"
        assert screen.query_one("#vram", Input).value == ""


async def test_only_the_phases_of_a_preset_have_fields(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "branched", BRANCHED)
    app = stage(seeded("empty"))

    def fields() -> list[str]:
        return [name for name in TRAINED if app.screen.query_one(f"#{name}", Input).region.height]

    async with playing(app) as pilot:
        await press(pilot, "n")
        assert fields() == ["pretrain", "forging"]
        await press(pilot, "right")
        assert fields() == ["cognate"]
        assert app.screen.query_one("#cognate", Input).value == str(BRANCHED.cognate.steps)
        assert "base steps" in shown(app)
        await press(pilot, "tab", "tab", "tab", "tab", "ctrl+u", "=77")
        screen = app.screen
        assert isinstance(screen, NewSessionScreen)
        config = screen._config
        assert config is not None
        assert (config.phases, config.cognate.steps) == (("cognate",), 77)
        assert config.cognate.reasoning == BRANCHED.cognate.reasoning
        await press(pilot, "shift+tab", "shift+tab", "shift+tab", "shift+tab", "left")
        assert fields() == ["pretrain", "forging"]
        assert screen._config == TINY


async def test_an_answer_to_an_older_question_is_dropped(seeded: Seeded) -> None:
    from forge_tui.messages import DraftChecked

    app = stage(seeded("empty"))
    async with playing(app) as pilot:
        await press(pilot, "n")
        app.screen.post_message(DraftChecked(0, "no file matches", None, None))
        await settle(pilot)
        assert "no file matches" not in shown(app)


async def test_start_makes_a_session_at_once(seeded: Seeded) -> None:
    app = stage(seeded("running"), start=TINY)
    async with playing(app):
        assert engine_of(app).calls[:2] == [("create", "tiny", None), ("start", FIRST)]
        assert app.feed.session_id == FIRST


async def test_until_a_session_is_made_the_screen_says_so(seeded: Seeded) -> None:
    held = threading.Event()

    class Slow(FakeEngine):
        def create(self, config: object, name: str | None = None) -> str:
            held.wait(30)
            raise ForgeError("no room.")

    app = stage(seeded("running"), start=TINY, engine=Slow())
    async with app.run_test(size=SMALL, notifications=True) as pilot:
        await pilot.pause()
        assert "making a session from tiny…" in shown(app)
        held.set()
        await settle(pilot)
        assert said(app) == "no room."
        assert "There is no session here yet." in shown(app)


# --- the list -------------------------------------------------------------------------------------------


async def test_a_session_is_opened_from_the_list(seeded: Seeded) -> None:
    app = stage(seeded("several"))
    async with playing(app) as pilot:
        assert app.feed.session_id == ulid(6)
        await press(pilot, "L", "G", "enter")
        assert isinstance(app.screen, DashboardScreen)
        assert app.feed.session_id == ulid(1)
        assert "calm-heron-40" in shown(app)


async def test_the_session_under_the_cursor_decides(seeded: Seeded) -> None:
    app = stage(seeded("several"))
    async with playing(app) as pilot:
        await press(pilot, "L", "j", "r")
        assert "running already" in said(app)
        await press(pilot, "j", "r")
        assert engine_of(app).calls == [("resume", ulid(4))]


async def test_a_filter_narrows_and_escape_takes_it_back(seeded: Seeded) -> None:
    app = stage(seeded("several"))
    async with playing(app) as pilot:
        await press(pilot, "L", "slash", "=lynx")
        assert "rapid-lynx-71" in shown(app)
        assert "calm-heron-40" not in shown(app)
        await press(pilot, "enter", "escape")
        assert isinstance(app.screen, SessionsScreen)
        assert "calm-heron-40" in shown(app)
        await press(pilot, "escape")
        assert isinstance(app.screen, DashboardScreen)


async def test_what_is_typed_at_once_goes_into_the_filter(seeded: Seeded) -> None:
    app = stage(seeded("several"))
    async with playing(app) as pilot:
        await press(pilot, "L")
        for key in ("slash", "d", "q", "n"):
            app.post_message(events.Key(key, "/" if key == "slash" else key))
        await settle(pilot)
        assert isinstance(app.screen, SessionsScreen)
        assert app.screen.query_one("#filter", Input).value == "dqn"


async def test_sorting_goes_round(seeded: Seeded) -> None:
    app = stage(seeded("several"))
    async with playing(app) as pilot:
        await press(pilot, "L")
        heads = []
        for _ in range(5):
            heads.append(shown(app).splitlines()[0].strip().rpartition("· ")[2])
            await press(pilot, "o")
        assert heads == ["newest first", "oldest first", "last changed", "name", "state"]
        assert "newest first" in shown(app)


async def test_the_list_follows_the_registry(fresh_home: Home) -> None:
    seed(fresh_home, Plan())
    app = stage(fresh_home)
    async with playing(app) as pilot:
        await press(pilot, "L")
        seed(fresh_home, Plan(id=ulid(2), name="second", state=State.STOPPED))
        await settle(pilot)
        assert "second" in shown(app)


async def test_a_broken_registry_is_told_everywhere(fresh_home: Home) -> None:
    fresh_home.registry.write_bytes(b"not a registry" * 100)
    app = stage(fresh_home)
    async with playing(app) as pilot:
        assert "the registry cannot be read" in shown(app)
        await press(pilot, "L")
        assert "the registry cannot be read" in shown(app)


# --- looking --------------------------------------------------------------------------------------------


async def test_a_phase_is_looked_at_by_its_number(seeded: Seeded) -> None:
    app = stage(seeded("forging"))
    async with playing(app) as pilot:
        assert "loss · Forging" in shown(app)
        await press(pilot, "1")
        assert "loss · Pre-training" in shown(app)
        await press(pilot, "0")
        assert "loss · Forging" in shown(app)


async def test_a_covered_dashboard_catches_up(fresh_home: Home) -> None:
    seed(fresh_home, Plan())
    app = stage(fresh_home)
    async with playing(app) as pilot:
        await press(pilot, "question_mark")
        with Registry.open(fresh_home) as registry:
            registry.write(lambda c: edits.set_session_state(c, FIRST, State.PAUSED, now=NOW))
        await settle(pilot)
        assert "RUNNING" in shown(app)
        await press(pilot, "escape")
        assert "PAUSED" in shown(app)


async def test_zoom_takes_and_gives_back_the_screen(seeded: Seeded) -> None:
    app = stage(seeded("running"))
    async with playing(app, SMALL) as pilot:
        before = app.screen.query_one("#loss", Pane).size
        await press(pilot, "z")
        assert app.screen.query_one("#loss", Pane).size.height > 2 * before.height
        assert app.screen.query_one("#events", Pane).size.height == 0
        await press(pilot, "tab")
        assert app.screen.query_one("#memory", Pane).size.height > 2 * before.height
        await press(pilot, "z")
        assert app.screen.query_one("#loss", Pane).size == before


async def test_the_axis_switches(seeded: Seeded) -> None:
    app = stage(seeded("running"))
    async with playing(app) as pilot:
        curve = app.screen.query_one("#curve", ChartView)
        assert curve.chart is not None
        assert not curve.chart.log
        await press(pilot, "y")
        assert curve.chart.log


async def test_somebody_who_reads_old_events_is_left_in_peace(fresh_home: Home) -> None:
    seed(fresh_home, Plan(events=[*EVENTS] * 4))
    app = stage(fresh_home)
    async with playing(app, SMALL) as pilot:
        await press(pilot, "k", "k", "k")
        log = app.screen.query_one("#log", TextPane)
        before = [line.plain for line in log._visible()]
        with Registry.open(fresh_home) as registry:
            registry.write(lambda c: edits.add_event(c, FIRST, kind="note", message="news", now=NOW))
        await settle(pilot)
        assert [line.plain for line in log._visible()] == before
        assert "↓ 4 newer" in shown(app)
        await press(pilot, "G")
        assert log._visible()[-1].plain.endswith("news")
        assert "newer" not in shown(app)


async def test_a_terminal_may_become_too_small_and_grow_again(seeded: Seeded) -> None:
    app = stage(seeded("running"))
    async with playing(app) as pilot:
        await press(pilot, "L")
        await pilot.resize_terminal(59, 15)
        await pilot.pause()
        assert isinstance(app.screen, TooSmall)
        await pilot.resize_terminal(*SMALL)
        await settle(pilot)
        assert isinstance(app.screen, SessionsScreen)
        assert "swift-otter-12" in shown(app)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_resized_screen_shows_nothing_of_the_old_size(seeded: Seeded, size: tuple[int, int]) -> None:
    app = stage(seeded("gpu"))
    async with playing(app, (100, 30)) as pilot:
        await pilot.resize_terminal(*size)
        await settle(pilot)
        resized = shown(app)
    fresh = stage(seeded("gpu"))
    async with playing(fresh, size):
        assert shown(fresh) == resized


# --- dialogs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["escape", "question_mark"])
async def test_help_closes(seeded: Seeded, key: str) -> None:
    app = stage(seeded("running"))
    async with playing(app) as pilot:
        await press(pilot, "question_mark")
        assert isinstance(app.screen, HelpDialog)
        await press(pilot, key)
        assert isinstance(app.screen, DashboardScreen)


async def test_help_scrolls_and_says_how_much_is_left(seeded: Seeded) -> None:
    app = stage(seeded("running"))
    async with playing(app, SMALL) as pilot:
        await press(pilot, "question_mark")
        assert "more · j k scroll · esc closes" in shown(app)
        await press(pilot, "G")
        assert "Quit; a run in this program is asked about first." in shown(app)
        assert "more" not in shown(app).splitlines()[-2]
        await press(pilot, "g")
        assert "Make a new session" in shown(app)


@pytest.mark.parametrize(("key", "answer"), [("y", True), ("enter", False), ("escape", False)])
async def test_a_question_is_answered_no_unless_yes_is_said(seeded: Seeded, key: str, answer: bool) -> None:
    answers: list[bool | None] = []
    app = stage(seeded("running"))
    async with playing(app) as pilot:
        await app.push_screen(ConfirmDialog("delete", "Delete 3 sessions?"), answers.append)
        await press(pilot, key)
    assert answers == [answer]


async def test_the_palette_does_what_was_found(seeded: Seeded) -> None:
    app = stage(seeded("running"))
    async with playing(app) as pilot:
        await press(pilot, "ctrl+p", "=checkp", "enter")
        assert engine_of(app).calls == [("request", FIRST, "checkpoint")]


async def test_the_palette_says_why_not(seeded: Seeded) -> None:
    app = stage(seeded("finished"))
    async with playing(app) as pilot:
        await press(pilot, "ctrl+p", "=pause")
        assert "not now: nothing runs: the session is completed" in shown(app)
        await press(pilot, "enter")
        assert "nothing runs" in said(app)


# --- what every screen keeps ----------------------------------------------------------------------------


async def test_a_session_is_chosen_on_the_command_line(seeded: Seeded) -> None:
    app = stage(seeded("several"), session=ulid(1))
    async with playing(app) as pilot:
        assert "calm-heron-40" in shown(app)
        assert forge_app(pilot).feed.session_id == ulid(1)


async def test_ascii_means_ascii_everywhere(seeded: Seeded) -> None:
    app = stage(seeded("hostile"), ascii_only=True)
    async with playing(app) as pilot:
        for keys in ((), ("question_mark",), ("escape", "L"), ("n",), ("escape", "z")):
            await press(pilot, *keys)
            assert shown(app).isascii(), keys
