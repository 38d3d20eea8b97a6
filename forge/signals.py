"""Signals of a process that trains: plain handlers that set a flag and never save anything.

The first SIGINT or SIGTERM asks for a checkpoint and an end at the next step, the second ends the process
at once. SIGHUP takes the terminal away and lets the run go on, and nothing that is written to a terminal
stops it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from forge import terminal

_SHOW_CURSOR = b"\x1b[?25h\r\n"
_GOES_ON = b"SIGHUP: training goes on without this terminal; watch: forge-tui; stop: forge stop\r\n"


def asker(number: int) -> str:
    """Who asks for an end by a signal: `SIGTERM`, or the key that a person pressed for it."""
    name = signal.Signals(number).name
    return f"Ctrl-C ({name})" if number == signal.SIGINT else name


class Signals:
    """Holds the handlers while a run is hosted, and gives back those from before."""

    def __init__(self, log: Path | None, leave: Callable[[int], Any] = os._exit) -> None:
        """Nothing is handled before the block begins.

        Args:
            log: where descriptors 1 and 2 lead once the terminal is gone.
            leave: ends the process at once.
        """
        self._log = log
        self._leave = leave
        self._before: dict[int, Any] = {}
        self.stop: int | None = None
        """The signal that asked for an end; none while nobody did."""
        self.hung_up = False
        """Whether the terminal is gone."""
        self.redirected: frozenset[int] = frozenset()
        """Descriptors that were the terminal and lead to the session's log now."""
        # Asked now: a terminal that is gone no longer says that it was one.
        self._terminals = frozenset(descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor))

    def __enter__(self) -> Signals:
        handlers: dict[int, Any] = {
            signal.SIGINT: self._on_stop,
            signal.SIGTERM: self._on_stop,
            signal.SIGHUP: self._on_hang_up,
            # After `stty tostop` whoever draws in the background would be stopped, and training with it.
            signal.SIGTTOU: signal.SIG_IGN,
        }
        for number, handler in handlers.items():
            # Ignored from the start, by nohup or a shell's `&`: whoever started us wants it so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, handler) or signal.SIG_DFL
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def look(self) -> None:
        """Notice a terminal that went without a signal, as it does where SIGHUP is ignored."""
        if not self.hung_up and any(map(terminal.is_gone, self._terminals)):
            self._hang_up()

    def leave_on_hang_up(self) -> None:
        """Let a terminal that closes end this program, as is usual: the run has a process of its own."""
        if signal.SIGHUP in self._before:
            signal.signal(signal.SIGHUP, self._before[signal.SIGHUP])

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop is not None:
            self._put_right()
            self._leave(128 + number)
        self.stop = number

    def _on_hang_up(self, _number: int, _frame: FrameType | None) -> None:
        if not self.hung_up:
            self._hang_up()

    def _hang_up(self) -> None:
        self.hung_up = True
        # It may still be there, as after `kill -HUP`, and whoever sits at it wants it as it was.
        self._put_right(_GOES_ON)
        terminal.lead(self._terminals, self._log)
        self.redirected = self._terminals

    def _put_right(self, last: bytes = b"") -> None:
        # A terminal that takes no output now must not keep the process alive.
        if 2 in self._terminals - self.redirected:
            terminal.write_now(2, _SHOW_CURSOR + last)
