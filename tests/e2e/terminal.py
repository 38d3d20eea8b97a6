"""A person at a terminal: starts a program in a pseudo-terminal, reads its screen, presses its keys.

Nothing here sleeps. A wait reads what every open terminal has to say until its condition holds, so a program
that nobody looks at never blocks on a full pipe, and a failure shows the screen as it then was.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pexpect
import pyte

PATIENCE = 90.0
"""Seconds that a condition may take: the machine may be busy with the other half of the tests."""
TICK = 0.25
"""Longest read between two looks at a condition that no output announces."""

_PTY_BYTES = 4095
"""What the reading end of a pseudo-terminal holds."""

KEYS = {
    "enter": "\r", "escape": "\x1b", "tab": "\t", "backspace": "\x7f", "ctrl+a": "\x01", "ctrl+c": "\x03",
    "ctrl+k": "\x0b", "ctrl+q": "\x11", "ctrl+s": "\x13", "ctrl+z": "\x1a", "space": " ", "up": "\x1b[A",
    "down": "\x1b[B", "right": "\x1b[C", "left": "\x1b[D",
}  # fmt: skip
# The kitty keyboard protocol and cursor shapes, which pyte would take for text.
_UNKNOWN_TO_PYTE = re.compile(rb"\x1b\[[<=>][0-9;]*[a-zA-Z]|\x1b\[[0-9]* q")
_OTHER_SCREEN = re.compile(rb"(\x1b\[\?1049[hl])")
_UNFINISHED = re.compile(rb"\x1b(\[[<=>?0-9; ]*)?\Z")

Modes = list[Any]


class Picture(pyte.Screen):
    """As a real terminal does, it passes over an erasure that there is not.

    What a killed program has left half sent may become one together with what the next program sends.
    """

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        """See pyte."""
        if how in (0, 1, 2):
            super().erase_in_line(how, private)

    def erase_in_display(self, how: int = 0, *args: int, **options: bool) -> None:
        """See pyte."""
        if how in (0, 1, 2, 3):
            super().erase_in_display(how, *args, **options)


class Terminal:
    """One pseudo-terminal with one program in it; made by `Desk.open`."""

    def __init__(
        self, desk: Desk, command: Sequence[str], env: Mapping[str, str], size: tuple[int, int]
    ) -> None:
        """Start `command` in a terminal of `size` (columns, rows) with no environment but `env`."""
        columns, rows = size
        self._desk = desk
        self._what = " ".join(command)
        # pyte has no alternate screen: it is a second one here.
        self._screens = {shown: Picture(columns, rows) for shown in (False, True)}
        self._screen = self._screens[False]
        self._stream = pyte.ByteStream(self._screen)
        self._pending = b""
        self._hung_up = False
        self._looking = True
        self.raw = b""
        """Every byte that the program wrote."""
        self._process = pexpect.spawn(
            command[0], list(command[1:]), env=dict(env), dimensions=(rows, columns), timeout=None
        )
        self.modes_before = self.modes()

    # --- what is seen -------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The screen as lines."""
        rows = (self._screen.buffer[y] for y in range(self._screen.lines))
        # Not `display`: it fails where half a wide character was overwritten.
        return "\n".join("".join(row[x].data for x in range(self._screen.columns)).rstrip() for row in rows)

    @property
    def said(self) -> str:
        """What stands there as one line, put together again where the terminal broke it at its edge."""
        edge = self._screen.columns
        lines = [line if len(line) == edge else f"{line}\n" for line in self.text.splitlines()]
        return " ".join("".join(lines).split())

    def sees(self, *parts: str) -> bool:
        """Whether all of `parts` are on the screen."""
        return all(part in self.text for part in parts)

    def find(self, pattern: str) -> str | None:
        """The first group of `pattern` on the screen; none where it is not there."""
        found = re.search(pattern, self.text)
        return None if found is None else found[1]

    @property
    def cursor_line(self) -> str:
        """The line with the block cursor, a cell in its neighbour's colours reversed; empty without one."""
        screen = self._screen
        for row in range(screen.lines):
            cells = [screen.buffer[row][column] for column in range(screen.columns)]
            pairs = [*itertools.pairwise(cells), *itertools.pairwise(cells[::-1])]
            if any("default" != a.bg == b.fg != a.fg for a, b in pairs):
                return str(screen.display[row])
        return ""

    def wait_for(self, *parts: str, timeout: float = PATIENCE) -> None:
        """Wait until all of `parts` are on the screen."""
        self.wait_until(lambda: self.sees(*parts), " and ".join(map(repr, parts)), timeout)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        """Read until `condition` holds; `what` says in the failure what did not come."""
        deadline = time.monotonic() + timeout
        while True:
            alive = self._alive()
            self._desk.read_all()
            if condition():
                return
            assert alive, f"{what} cannot come any more: the program ended, {self}"
            left = deadline - time.monotonic()
            assert left > 0, f"{what} did not come in {timeout:.0f} s on {self}"
            self._desk.read(min(TICK, left))

    def __str__(self) -> str:
        width = self._screen.columns
        lines = "\n".join(f"|{line}|" for line in self._screen.display)
        state = "running" if self._alive() else f"ended with {self._process.exitstatus}"
        return f"the screen of `{self._what}` ({state}):\n+{'-' * width}+\n{lines}\n+{'-' * width}+"

    @property
    def pid(self) -> int:
        """The program's process."""
        return int(self._process.pid)

    # --- what is done -------------------------------------------------------------------------------

    def press(self, *keys: str) -> None:
        """Press keys by their names; a name that is not known is typed as it stands."""
        for key in keys:
            os.write(self.descriptor, KEYS.get(key, key).encode())

    def resize(self, columns: int, rows: int) -> None:
        """Make the window another size; the program is told by SIGWINCH."""
        for screen in self._screens.values():
            screen.resize(rows, columns)
        self._process.setwinsize(rows, columns)

    def signal(self, number: int) -> None:
        """Send the program a signal."""
        self._process.kill(number)

    def hang_up(self) -> None:
        """Close our end: with the last descriptor the kernel sends SIGHUP."""
        self._hung_up = True
        self._process.ptyproc.fileobj.close()

    def look_away(self) -> None:
        """Read nothing from now on, as a link that stalls, and leave no room; it has to be Linux."""
        self._looking = False
        name = Path(f"/proc/{self.pid}/fd/0").readlink()
        theirs = os.open(name, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        unread = bytearray(4)
        # The kernel moves what was written on from one buffer to the next: it is full when both are.
        while int.from_bytes(unread, sys.byteorder) < _PTY_BYTES:
            with contextlib.suppress(BlockingIOError):
                while os.write(theirs, bytes(64)):
                    continue
            fcntl.ioctl(self.descriptor, termios.FIONREAD, unread)
        os.close(theirs)

    def look_again(self) -> None:
        """Read what came meanwhile, and go on reading."""
        self._looking = True
        self._desk.read_all()

    def ended(self, timeout: float = PATIENCE) -> int:
        """Wait for the program's end; returns its exit code, 128 + n where signal n ended it."""
        self.wait_until(lambda: not self._alive(), "the end", timeout)
        self._desk.read_all()
        if self._process.signalstatus is not None:
            return 128 + int(self._process.signalstatus)
        return int(self._process.exitstatus)

    def close(self) -> None:
        """End the program, however it feels about it."""
        if self._alive():
            self._process.kill(signal.SIGKILL)
            self._process.wait()
        if not self._hung_up:
            self._process.close(force=True)

    @property
    def suspended(self) -> bool:
        """Whether the program is stopped, as by Ctrl-Z; it has to be Linux to tell."""
        status = Path(f"/proc/{self.pid}/stat").read_text("utf-8")
        return status.rpartition(")")[2].split()[0] in "Tt"

    # --- the terminal itself ------------------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """Our end of the pseudo-terminal; -1 when it is closed."""
        return -1 if self._process.closed or self._hung_up else int(self._process.child_fd)

    @property
    def looked_at(self) -> bool:
        """Whether what the program writes is read."""
        return self._looking and self.descriptor >= 0

    def modes(self) -> Modes:
        """Echo, line editing and the like, as `stty` shows them."""
        return termios.tcgetattr(self.descriptor)

    def mode_set(self, number: int) -> bool | None:
        """Whether a private mode, such as 1049 for the other screen, was last set or reset; none if never."""
        said = re.findall(rb"\x1b\[\?([0-9;]+)([hl])", self.raw)
        last = [action for numbers, action in said if str(number).encode() in numbers.split(b";")]
        return last[-1] == b"h" if last else None

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was: own screen, cursor, echo, no mouse, no pasting brackets."""
        plain = not any(self.mode_set(number) for number in (1049, 1000, 1003, 1006, 2004))
        return plain and self.mode_set(25) is not False and self.modes() == self.modes_before

    def take(self) -> bool:
        """Read what is there, without waiting; returns whether there was anything."""
        try:
            data = os.read(self.descriptor, 1 << 16)
        except OSError:  # EIO: the program has closed its end
            data = b""
        if not data:
            return False
        self.raw += data
        whole = _UNKNOWN_TO_PYTE.sub(b"", self._pending + data)
        cut = _UNFINISHED.search(whole)
        end = cut.start() if cut is not None else len(whole)
        self._pending = whole[end:]
        for part in _OTHER_SCREEN.split(whole[:end]):
            switch = _OTHER_SCREEN.fullmatch(part)
            if switch is not None:
                self._screen = self._screens[part.endswith(b"h")]
                self._stream.listener = None
                self._stream.attach(self._screen)
            self._stream.feed(part)
        return True

    def _alive(self) -> bool:
        return not self._process.closed and bool(self._process.isalive())


class Desk:
    """All terminals of one test, read together."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = dict(env)
        self._terminals: list[Terminal] = []

    def open(
        self, *command: str, size: tuple[int, int] = (120, 40), env: Mapping[str, str | None] = {}
    ) -> Terminal:
        """Start a program in a terminal of its own; a variable that is None in `env` is not set."""
        chosen = {name: value for name, value in {**self.env, **env}.items() if value is not None}
        terminal = Terminal(self, command, chosen, size)
        self._terminals.append(terminal)
        return terminal

    def read(self, timeout: float) -> bool:
        """Let every terminal take what its program wrote; returns whether any did."""
        poll = select.poll()
        open_ones = {each.descriptor: each for each in self._terminals if each.looked_at}
        for descriptor in open_ones:
            poll.register(descriptor, select.POLLIN)
        took = [open_ones[descriptor].take() for descriptor, _ in poll.poll(timeout * 1000)]
        return any(took)

    def read_all(self) -> None:
        """Let every terminal take what there is now: half a frame says nothing."""
        while self.read(0):
            continue

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        """Read until `condition` holds, whichever program it is about."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"{what} did not come in {timeout:.0f} s"
            self.read(min(TICK, left))

    def close(self) -> None:
        """End every program that is still there."""
        for terminal in self._terminals:
            terminal.close()
