"""`forge run` on a terminal calls its person, as the home says, and sends nothing to what is no terminal."""

from __future__ import annotations

import io
import sys

import pytest

from forge.cli.alarm import is_news, ring
from forge.config import change_settings
from forge.home import Home
from forge.registry import State
from forge.streams import Harmless


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("how", "sent"),
    [("bell", "\a"), ("osc9", "\x1b]9;Forge: a\\x1bb is failed\a"), ("none", "")],
)
def test_a_terminal_is_sent_what_the_home_says(
    home: Home, monkeypatch: pytest.MonkeyPatch, how: str, sent: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", Harmless(terminal))
    change_settings(home.settings, [f"notify.terminal={how}"])
    ring(home, "a\x1bb is failed")
    assert terminal.getvalue() == sent


def test_broken_settings_ring_the_bell(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    home.settings.write_text("nope: 1\n", "utf-8")
    ring(home, "x")
    assert terminal.getvalue() == "\a"


def test_what_is_no_terminal_is_sent_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    ring(home, "x")
    assert pipe.getvalue() == ""


def test_a_terminal_that_is_gone_is_no_error(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    ring(home, "x")


def test_a_stop_is_news_where_nobody_at_this_terminal_asked_for_it() -> None:
    assert is_news(State.STOPPED, asked_here=False)
    assert not is_news(State.STOPPED, asked_here=True)
    assert all(is_news(state, asked_here=True) for state in (State.COMPLETED, State.FAILED))
