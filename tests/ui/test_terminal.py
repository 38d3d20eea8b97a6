"""The screen's way to its terminal: nobody waits for it longer than it is there, and it is left as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.app import App

from forge import terminal as lent
from forge_tui.driver import driver_of
from forge_tui.terminal import RESTORE, Terminal
from tests.e2e.terminal import PATIENCE

FLOOD = "x" * (1 << 20)
"""More than any pseudo-terminal holds."""


class Pty:
    """A pseudo-terminal: `ours` is who reads it, `theirs` what a program writes to."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)

    def hang_up(self) -> None:
        """Close the end that is read."""
        os.close(self.ours)
        self.ours = -1

    def read_all(self) -> bytes:
        """All that is there."""
        os.set_blocking(self.ours, False)
        found = b""
        try:
            while data := os.read(self.ours, 1 << 16):
                found += data
        except OSError:
            return found
        return found

    def raw(self) -> None:
        """As a screen leaves it: no echo, no lines, no signals from keys."""
        modes = termios.tcgetattr(self.theirs)
        modes[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
        termios.tcsetattr(self.theirs, termios.TCSANOW, modes)

    @property
    def modes(self) -> list[object]:
        """Echo, line editing and the like."""
        return termios.tcgetattr(self.theirs)


@pytest.fixture
def line() -> Iterator[Pty]:
    made = Pty()
    yield made
    for descriptor in (made.ours, made.theirs):
        if descriptor >= 0:
            os.close(descriptor)


@pytest.fixture
def terminal(line: Pty) -> Iterator[Terminal]:
    """The terminal of that line, with none of the descriptors of who runs the test."""
    with Terminal(line.theirs, standard=()) as made:
        yield made


def flooded(terminal: Terminal) -> threading.Thread:
    """A thread that waits for somebody to read what it writes."""

    def write() -> None:
        terminal.write(FLOOD)
        terminal.flush()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    deadline = time.monotonic() + PATIENCE
    while not terminal.stalled:
        assert writer.is_alive(), "the terminal took everything"
        assert time.monotonic() < deadline, "the writer does not wait"
        writer.join(0.01)
    return writer


def test_what_is_written_arrives_at_the_flush(line: Pty, terminal: Terminal) -> None:
    terminal.write("one ")
    terminal.write("größer")
    assert line.read_all() == b""
    terminal.flush()
    assert line.read_all() == "one größer".encode()


def test_that_it_does_not_block_is_nobody_elses_business(line: Pty, terminal: Terminal) -> None:
    assert not os.get_blocking(terminal.fd)
    assert os.get_blocking(line.theirs)
    assert fcntl.fcntl(terminal.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_who_writes_waits_for_a_reader(line: Pty, terminal: Terminal) -> None:
    writer = flooded(terminal)
    found = b""
    while writer.is_alive() or len(found) < len(FLOOD):
        found += line.read_all()
    assert found == FLOOD.encode()
    assert not terminal.stalled


def test_giving_it_up_ends_the_wait(line: Pty, terminal: Terminal) -> None:
    told: list[bool] = []
    terminal.when_gone = lambda: told.append(terminal.gone)
    writer = flooded(terminal)
    terminal.give_up(None)
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert told == [True]
    assert os.path.samestat(os.fstat(terminal.fd), Path(os.devnull).stat())
    terminal.write(FLOOD)
    terminal.flush()
    terminal.show("nothing")
    assert not terminal.hung_up()


def test_a_reader_that_goes_ends_the_wait(line: Pty, terminal: Terminal) -> None:
    writer = flooded(terminal)
    assert not terminal.hung_up()
    line.hang_up()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert terminal.hung_up()


def test_a_plain_line_is_cleaned_and_waits_for_nobody(line: Pty, terminal: Terminal) -> None:
    terminal.show("a \x1b[31mline\n")
    terminal.show("over", over=True)
    assert line.read_all() == b"a \\x1b[31mline\r\n\rover"
    writer = flooded(terminal)
    terminal.show("nobody reads this")
    terminal.give_up(None)
    writer.join(PATIENCE)


@pytest.mark.parametrize("stalls", [False, True])
def test_it_is_put_right_whether_or_not_anybody_reads(line: Pty, terminal: Terminal, stalls: bool) -> None:
    terminal.on_screen = True
    line.raw()
    writer = flooded(terminal) if stalls else None
    terminal.put_right()
    # The terminal itself adds one more carriage return.
    assert line.read_all().replace(b"\r\r\n", b"\r\n").endswith(RESTORE)
    assert line.modes == line.before
    terminal.give_up(None)
    if writer is not None:
        writer.join(PATIENCE)


def test_a_terminal_without_a_screen_on_it_is_left_alone(line: Pty, terminal: Terminal) -> None:
    terminal.put_right()
    assert line.read_all() == b""


def test_what_a_killed_screen_left_is_put_right(line: Pty) -> None:
    line.raw()
    with Terminal(line.theirs, standard=()) as terminal:
        terminal.make_sane()
        assert line.modes == line.before
        assert line.read_all().startswith(RESTORE[:-2])


def test_a_terminal_without_a_size_is_taken_for_a_plain_one(terminal: Terminal) -> None:
    assert terminal.size() == (80, 24)
    assert terminal.columns == 80


def test_what_cannot_be_logged_is_thrown_away(tmp_path: Path) -> None:
    read, write = os.pipe()
    lent.lead([write], tmp_path / "no folder" / "log.jsonl")
    assert os.path.samestat(os.fstat(write), Path(os.devnull).stat())
    for each in (read, write):
        os.close(each)


async def test_the_thread_that_reads_keys_ends_with_the_terminal(terminal: Terminal) -> None:
    numbers = (signal.SIGTSTP, signal.SIGCONT)
    before = [signal.getsignal(number) for number in numbers]
    try:
        kind = driver_of(terminal, lambda: True)
        driver = kind(App[None]())
        assert not driver.exit_event.is_set()
        terminal.give_up(None)
        assert driver.exit_event.is_set()
        # One that is made too late reads nothing either.
        assert kind(App[None]()).exit_event.is_set()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_a_last_line_is_left_on_a_terminal_that_is_put_right(line: Pty, terminal: Terminal) -> None:
    terminal.put_right("without a screen\n")
    terminal.on_screen = True
    terminal.put_right("goes \x1b[31mon\n")
    assert line.read_all().endswith(b"goes \\x1b[31mon\r\n")
    terminal.show("nothing more")
    assert line.read_all() == b""
