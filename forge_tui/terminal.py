"""The screen's own way to its terminal, opened apart from descriptors 0–2 and never in anybody's way.

Descriptors 1 and 2 lead elsewhere while the screen is on, so a library that prints cannot spoil it. Only the
thread that writes ever waits for a terminal that nobody reads, and it stops waiting when the terminal is
given up.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from forge import terminal
from forge.text import Alert, alert, clean_lines

_CHUNK = 1 << 16
_STALL_SECONDS = 0.25

RESTORE = (
    b"\x18"  # whatever sequence was cut off
    b"\x1b[?7h"  # with lines that wrap
    b"\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[?1015l\x1b[?1016l"  # without the mouse
    b"\x1b[?2004l\x1b[?1004l\x1b[?2048l"  # without brackets round what is pasted, events of focus or of size
    b"\x1b[<u"  # with plain keys
    b"\x1b[?1049l\x1b[?25h\x1b[0m\r\n"  # back from the alternate screen, with a cursor and plain colours
)
_SANE = {
    0: termios.ICRNL | termios.IXON,
    1: termios.OPOST | termios.ONLCR,
    3: termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG,
}
"""Flags of a terminal at which a person can type, by their place among its attributes."""


class Terminal:
    """The terminal while the block lasts; descriptors 1 and 2 are given back at its end."""

    def __init__(self, descriptor: int = 2, standard: Sequence[int] = (0, 1, 2)) -> None:
        """Open it.

        Args:
            descriptor: leads to the terminal.
            standard: descriptors that are taken away from it, 1 and 2 now and all when it is given up.

        Raises:
            OSError: `descriptor` is no terminal.
        """
        self._standard = tuple(standard)
        self._outputs = tuple(number for number in standard if number in terminal.OUTPUTS)
        self.fd = _open(descriptor)
        self._modes = termios.tcgetattr(self.fd)
        self._encoding = getattr(sys.__stderr__, "encoding", "ascii")
        self._pending = bytearray()
        self._stuck_since: float | None = None
        self._woken, self._wake = os.pipe()
        self._saved = {number: os.dup(number) for number in self._outputs}
        self.gone = False
        """Whether it was given up: nothing is written any more, and nothing waits."""
        self.on_screen = False
        """Whether the screen has changed how the terminal behaves."""
        self.when_gone: Callable[[], object] = lambda: None
        """Called when it is given up."""

    def __enter__(self) -> Terminal:
        terminal.lead(self._outputs, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.gone:
            for number, saved in self._saved.items():
                os.dup2(saved, number)
        for descriptor in (self.fd, self._woken, self._wake, *self._saved.values()):
            os.close(descriptor)

    # --- the screen's file --------------------------------------------------------------------------

    def write(self, text: str) -> int:
        """Take what is to be written at the next `flush`."""
        self._pending += text.encode(self._encoding, "backslashreplace")
        if len(self._pending) >= _CHUNK:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write, and wait for the terminal as long as that takes; for one that is gone nothing is written."""
        data, self._pending = memoryview(bytes(self._pending)), bytearray()
        while data and not self.gone:
            try:
                data = data[os.write(self.fd, data) :]
                self._stuck_since = None
            except BlockingIOError:
                self._wait_for_room()
            except OSError:
                return  # it hung up; whoever watches it sees that too

    def fileno(self) -> int:
        """The descriptor."""
        return self.fd

    def isatty(self) -> bool:
        """It is one, so colours are welcome."""
        return True

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        poll.register(self._woken, select.POLLIN)
        self._stuck_since = time.monotonic()
        poll.poll()

    @property
    def name(self) -> str:
        """Its name, such as /dev/pts/3; empty where it has none."""
        with contextlib.suppress(OSError):
            return os.ttyname(self.fd)
        return ""

    @property
    def columns(self) -> int:
        """Its width; 80 when it does not say."""
        return self.size()[0]

    def size(self) -> tuple[int, int]:
        """Columns and rows; 80x24 when it does not say."""
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(self.fd)
            if columns and rows:
                return columns, rows
        return 80, 24

    # --- without a screen ---------------------------------------------------------------------------

    def show(self, text: str, *, over: bool = False) -> None:
        """Write plain text if the terminal takes it soon, and not at all otherwise.

        Args:
            text: one line or several, from wherever.
            over: write it over the line that the cursor is on.
        """
        if not self.gone and terminal.takes_output(self.fd, _STALL_SECONDS):
            shown = "\r" * over + clean_lines(text)
            self._try_write(shown.encode(self._encoding, "backslashreplace"))

    def ring(self, how: Alert, text: str) -> None:
        """Call a person who looks elsewhere, if the terminal takes it soon."""
        if not self.gone and terminal.takes_output(self.fd, _STALL_SECONDS):
            self._try_write(alert(how, text).encode(self._encoding, "backslashreplace"))

    def lead_output(self, log: Path | None) -> None:
        """Where what libraries print goes from now on; none throws it away."""
        if not self.gone:
            terminal.lead(self._outputs, log)

    def log(self, text: str) -> None:
        """Write where what libraries print goes."""
        with contextlib.suppress(OSError):
            os.write(2, text.encode("utf-8", "backslashreplace"))

    # --- parting ------------------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether the screen waits for somebody to read what it has written; asked on another thread."""
        # Not whether there is room: there may be some, but too little for anything, and then nobody is woken.
        since = self._stuck_since
        if since is not None:
            time.sleep(max(0.0, since + _STALL_SECONDS - time.monotonic()))
        return since is not None and self._stuck_since == since

    def hung_up(self) -> bool:
        """Whether it was closed at its other end."""
        return not self.gone and terminal.is_gone(self.fd)

    def give_up(self, log: Path | None) -> None:
        """Let go of it for good: nobody waits for it, and descriptors 0–2 lead elsewhere."""
        self.gone = True
        terminal.lead((*self._standard, self.fd, *self._saved.values()), log)
        os.write(self._wake, b"!")
        self.when_gone()

    def put_right(self, last: str = "") -> None:
        """Undo what the screen did, without waiting for anybody to read; nothing is written after that.

        Args:
            last: plain text to leave on it, screen or not.
        """
        if self.gone or not self.on_screen:
            self.show(last)
            return
        self.gone = True
        self._set_modes(self._modes)
        text = clean_lines(last).encode(self._encoding, "backslashreplace")
        if not self._try_write(RESTORE + text):
            # What nobody has read is worth less than a terminal that works when somebody looks again.
            with contextlib.suppress(termios.error):
                termios.tcflush(self.fd, termios.TCOFLUSH)
            self._try_write(RESTORE + text)

    def make_sane(self) -> None:
        """Put right what a program that was killed has left, as `reset` does."""
        for place, flags in _SANE.items():
            self._modes[place] |= flags
        self._set_modes(self._modes)
        self._try_write(RESTORE)

    def _try_write(self, data: bytes) -> bool:
        """Write what there is room for; whether that was all."""
        # Asked first, because a mere duplicate (see `_open`) would wait.
        if terminal.takes_output(self.fd):
            with contextlib.suppress(OSError):
                return os.write(self.fd, data) == len(data)
        return False

    def _set_modes(self, modes: list[object]) -> None:
        # A process in the background would be stopped for it, and training with it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.fd, termios.TCSANOW, modes)  # type: ignore[arg-type]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _open(descriptor: int) -> int:
    """A descriptor of its own: a duplicate would share with the shell that it does not block."""
    try:
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(os.ttyname(descriptor), flags)
    except OSError:
        # A container may have the terminal without a name for it, and another user's may not be opened.
        return os.dup(descriptor)
