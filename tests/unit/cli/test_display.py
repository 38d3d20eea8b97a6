"""Progress on stderr: what a look becomes, and that only the display suffers when the stream does."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pyte
import pytest

from forge.cli.display import LINE_SECONDS, Bar, Display, Lines, renderer
from forge.cli.watch import Look, Watch, figures
from forge.home import Home
from forge.registry import EventRow, Heartbeat, Registry, SessionRow, State, edits
from forge.signals import Signals
from tests.unit.cli.conftest import add, until

BEAT: dict[str, Any] = {
    "at": 0.0, "phase": "pretrain", "step": 310, "total_steps": 500, "steps_per_second": 4.0,
    "tokens_per_second": 8412.0, "eta_seconds": 47.5, "status": "", "coalesced": 0,
}  # fmt: skip


def look(state: State = State.RUNNING, loss: float | None = 3.25, **beat: Any) -> Look:
    """A look at a session named `first`."""
    row: dict[str, Any] = dict.fromkeys(SessionRow.model_fields, None)
    session = SessionRow.model_construct(**{**row, "name": "first", "state": state})
    return Look(session, Heartbeat(**{**BEAT, **beat}), loss)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (look(), ["loss 3.250", "8.41 k tok/s", "48 s left"]),
        (look(eta_seconds=None, tokens_per_second=0.0, loss=None), []),
        (look(status="training the tokenizer"), ["training the tokenizer"]),
        (look(State.PAUSED), ['paused; "forge resume first" goes on']),
        (look(State.PAUSED, status="disk full"), ['paused: disk full; "forge resume first" goes on']),
        (Look(look().session, None, None), ["starting: loading the tensor library"]),
        (Look(look().session, None, None, "the disk is gone"), ["the disk is gone"]),
    ],
)
def test_figures(seen: Look, words: list[str]) -> None:
    assert figures(seen) == words


def test_lines_come_now_and_then_and_only_when_something_changed() -> None:
    now, stream = [0.0], io.StringIO()
    lines = Lines(stream, lambda: now[0])
    for at, step in [(0.0, 1), (LINE_SECONDS - 0.1, 2), (LINE_SECONDS, 3), (3 * LINE_SECONDS, 3), (60.0, 4)]:
        now[0] = at
        lines.show(look(step=step))
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["1", "3", "4"]
    assert stream.getvalue().startswith("pretrain step 1 of 500 (0%), loss 3.250, 8.41 k tok/s, 48 s left\n")


def test_a_line_is_harmless() -> None:
    stream = io.StringIO()
    Lines(stream).show(look(status="preparing \x1b[2J\u202e"))
    assert "preparing \\x1b[2J\\u202e" in stream.getvalue()


@pytest.fixture
def terminal() -> Iterator[tuple[TextIO, pyte.Screen]]:
    """A terminal of 80x24 that is read at once, and what stands on it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    screen = pyte.Screen(80, 24)
    feed = pyte.ByteStream(screen)

    def read() -> None:
        try:
            while data := os.read(master, 65536):
                feed.feed(data)
        except OSError:
            return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as stream:
        yield stream, screen
    reader.join()
    os.close(master)


def shown(screen: pyte.Screen) -> list[str]:
    """The lines on a screen that are not empty."""
    return [line.rstrip() for line in screen.display if line.strip()]


def test_the_bar_is_redrawn_in_place_and_removed(
    terminal: tuple[TextIO, pyte.Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream, screen = terminal
    bar = renderer(stream)
    assert isinstance(bar, Bar)
    bar.show(look(step=1))
    bar.show(look(step=310))
    bar.tell("something \x1b[2J happened")
    until(lambda: len(shown(screen)) == 2, "the drawing")
    told, drawn = shown(screen)
    assert told == "something \\x1b[2J happened"
    assert drawn.startswith("pretrain ━")
    assert drawn.endswith(" 310/500 · loss 3.250 · 8.41 k tok/s · 48 s left")
    assert len(drawn) <= 77
    assert screen.cursor.hidden
    bar.close()
    until(lambda: not screen.cursor.hidden, "the end")
    assert shown(screen) == [told]


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    terminal: tuple[TextIO, pyte.Screen], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TERM", kind or "dumb")
    assert isinstance(renderer(terminal[0] if kind else io.StringIO()), Lines)


class Recorder:
    """A renderer that remembers, and fails when told to."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.told, self.looks, self.closed = fail, [""], 0, False

    def show(self, look: Look) -> None:
        """Remember that a look was shown."""
        if self.fail:
            raise OSError(5, "Input/output error")
        self.looks += 1

    def tell(self, line: str) -> None:
        """Remember a line."""
        self.told.append(line)

    def close(self) -> None:
        """Remember the end."""
        self.closed = True


@pytest.fixture
def watch(home: Home) -> Iterator[Watch]:
    """A look at a session in which something happens before it is shown."""
    session_id = add(home, "first", State.RUNNING)
    with Registry.open(home) as registry:
        watch = Watch(registry, home, session_id)
        for level, kind in [
            ("info", "phase"),
            ("info", "checkpoint"),
            ("warning", "oom"),
            ("warning", "disk"),
            ("error", "error"),
        ]:
            registry.write(
                lambda c, level=level, kind=kind: edits.add_event(  # type: ignore[misc]
                    c, session_id, kind=kind, message=f"{kind} happened", now=time.time(), level=level
                )
            )
        yield watch


def test_news_are_told_once_and_the_end_is_clean(watch: Watch, tmp_path: Path) -> None:
    record, signals = Recorder(), Signals(tmp_path / "log")
    rung: list[str] = []
    display = Display(watch, signals, lambda: record, "first runs here", rung.append)
    until(lambda: record.looks > 1, "two looks")
    signals.stop = 2
    until(lambda: any("stopping after this step" in line for line in record.told), "the answer to Ctrl-C")
    assert display.close()
    assert record.closed
    said = [line.split(maxsplit=1)[-1] for line in record.told[2:]]
    assert record.told[1] == "first runs here"
    assert said[:3] == ["phase happened", "warning: oom happened", "warning: disk happened"]
    assert len(said) == 4
    assert rung == ["disk happened"]


def test_after_a_hang_up_nothing_is_written(watch: Watch, tmp_path: Path) -> None:
    record, signals = Recorder(), Signals(tmp_path / "log")
    signals.hung_up = True
    display = Display(watch, signals, lambda: record)
    assert display.close()
    assert (record.told, record.looks, record.closed) == ([""], 0, False)


def test_a_stream_that_fails_ends_the_display_only(watch: Watch, tmp_path: Path) -> None:
    display = Display(watch, Signals(tmp_path / "log"), lambda: Recorder(fail=True))
    until(lambda: not display._thread.is_alive(), "the end of the display")
    assert display.close()


def test_an_old_heartbeat_is_not_this_run(home: Home) -> None:
    session_id = add(home, "first", State.RUNNING)
    with Registry.open(home) as registry:
        assert Watch(registry, home, session_id, since=time.time() + 60).look().beat is None
        seen = Watch(registry, home, session_id, since=time.time() - 60).look()
    assert seen.beat is not None
    assert (seen.beat.step, seen.loss) == (310, 3.25)


def test_news_are_rows_of_the_session(watch: Watch) -> None:
    news = watch.news()
    assert all(isinstance(event, EventRow) for event in news)
    assert watch.news() == []
