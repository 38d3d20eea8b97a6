"""The table of actions: a key means one thing on a screen, is done by somebody, or says why it is not."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
from textual.binding import Binding

from forge.registry.lifecycle import State
from forge_tui import actions
from forge_tui.actions import ACTIONS, BY_ID, CLEANUP, DASHBOARD, NEW, SESSIONS
from forge_tui.screens.base import Acting, bindings
from forge_tui.screens.cleanup import CleanupScreen
from forge_tui.screens.confirm import ConfirmDialog
from forge_tui.screens.dashboard import DashboardScreen
from forge_tui.screens.help import HelpDialog
from forge_tui.screens.labels import LabelsDialog
from forge_tui.screens.new import NewSessionScreen
from forge_tui.screens.quit import QuitDialog
from forge_tui.screens.sessions import SessionsScreen
from forge_tui.screens.validate import ValidateScreen
from forge_tui.state import Cleaning, Context

SCREENS: tuple[type[Acting[Any]], ...] = (
    DashboardScreen, SessionsScreen, NewSessionScreen, CleanupScreen, HelpDialog, QuitDialog, ConfirmDialog,
    ValidateScreen, LabelsDialog,
)  # fmt: skip
CONTEXTS = [
    Context(DASHBOARD, state, hosted=hosted, engine=engine, readonly=readonly, phases=2 if state else 0)
    for state, hosted, engine, readonly in itertools.product([None, *State], *[(False, True)] * 3)
] + [
    Context(
        CLEANUP,
        State.COMPLETED,
        cleaning=Cleaning(part, refused, refused, looking, busy, going, going, trashed),
    )
    for part in ("plan", "trash", "policy")
    for refused, looking, busy in itertools.product((False, True), repeat=3)
    for going, trashed in itertools.product((0, 2), repeat=2)
]


@pytest.mark.parametrize("screen", SCREENS)
def test_every_action_of_a_screen_is_done_by_it(screen: type[Acting[Any]]) -> None:
    missing = [a.method for a in actions.on_screen(screen.NAME) if not callable(getattr(screen, a.method, 0))]
    assert missing == []


@pytest.mark.parametrize("screen", SCREENS)
def test_a_screen_does_nothing_that_is_not_in_the_table(screen: type[Acting[Any]]) -> None:
    known = {action.method for action in actions.on_screen(screen.NAME)}
    inherited = {"do_go_quit", "do_go_help", "do_go_palette"}
    assert {name for name in dir(screen) if name.startswith("do_")} - known <= inherited


@pytest.mark.parametrize("screen", SCREENS)
def test_no_two_actions_share_a_key(screen: type[Acting[Any]]) -> None:
    keys = [key for action in actions.on_screen(screen.NAME) for key in action.keys]
    assert sorted(keys) == sorted(set(keys))


def test_no_key_of_the_form_that_must_work_in_a_field_can_be_typed() -> None:
    for action in actions.on_screen(NEW):
        assert any(len(actions.display(key)) > 1 for key in action.keys), action.id


def test_the_filter_can_be_left_and_confirmed_while_it_has_the_focus() -> None:
    leaving = BY_ID["go.dashboard"].keys
    assert "escape" in leaving


@pytest.mark.parametrize("screen", SCREENS)
def test_bindings_have_ids_and_come_from_the_table(screen: type[Acting[Any]]) -> None:
    made = [each for each in bindings(screen.NAME) if isinstance(each, Binding)]
    assert len({each.id for each in made}) == len(made)
    assert list(screen.BINDINGS) == bindings(screen.NAME)
    expected = {key for a in actions.on_screen(screen.NAME) for key in a.keys} - actions.APP_KEYS
    assert {each.key for each in made} == expected


def test_ids_are_unique_and_every_action_is_told() -> None:
    assert len(BY_ID) == len(ACTIONS)
    for action in ACTIONS:
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", action.id)
        assert action.help[0].isupper()
        assert action.help.endswith(".")
        assert action.title == action.title.lower()


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_what_cannot_be_done_says_why_in_a_sentence(action: actions.Action) -> None:
    for context in CONTEXTS:
        reason = action.why_not(context)
        assert reason is None or (len(reason) > 10 and reason[0].islower() and not reason.endswith("."))


def test_steering_needs_a_run_and_an_engine() -> None:
    running = Context(DASHBOARD, State.RUNNING, phases=2)
    for name in ("run.pause", "run.stop", "run.checkpoint"):
        action = BY_ID[name]
        assert action.why_not(running) is None
        assert action.why_not(replace(running, state=State.PAUSED)) is None
        for state in set(State) - {State.RUNNING, State.PAUSED}:
            assert action.why_not(replace(running, state=state)) is not None
        assert "--readonly" in str(action.why_not(replace(running, readonly=True)))
        assert action.why_not(replace(running, engine=False)) is not None
        assert "no session" in str(action.why_not(replace(running, state=None)))
        assert "just starting" in str(action.why_not(replace(running, state=State.CREATED, starting=True)))


@pytest.mark.parametrize(
    ("state", "allowed"),
    [
        (State.CREATED, True),
        (State.RUNNING, False),
        (State.PAUSED, True),
        (State.COMPLETED, False),
        (State.FAILED, True),
        (State.STOPPED, True),
        (State.INTERRUPTED, True),
        (State.TRASHED, False),
    ],
)
def test_what_can_be_resumed(state: State, allowed: bool) -> None:
    context = Context(DASHBOARD, state)
    assert (BY_ID["run.resume"].why_not(context) is None) is allowed


def test_the_key_bar_names_what_space_does() -> None:
    pause = BY_ID["run.pause"]
    assert pause.label(Context(DASHBOARD, State.RUNNING)) == "pause"
    assert pause.label(Context(DASHBOARD, State.PAUSED)) == "resume"


def test_a_key_of_another_screen_says_where_it_works() -> None:
    assert actions.elsewhere("space", SESSIONS) == "space (pause) works on the dashboard screen"
    assert actions.elsewhere("slash", DASHBOARD) == "/ (filter) works on the sessions screen"
    assert actions.elsewhere("x", DASHBOARD) == "x (clean up) works on the cleanup screen"
    assert actions.elsewhere("W", DASHBOARD) is None
