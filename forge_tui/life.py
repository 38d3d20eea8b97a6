"""What signals and a lost terminal mean to the application, whatever state its screen is in.

A handler only sets a flag and writes one byte into a pipe. A thread of its own reads it and acts: it stops
the run with a checkpoint, or takes the screen away from a run that goes on. A screen that cannot leave,
because its terminal takes no output, is left behind. No training step waits for any of this.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from forge.signals import Signals, asker

if TYPE_CHECKING:
    from forge.home import Home
    from forge_tui.ports import EnginePort
    from forge_tui.terminal import Terminal

BORROWED = (signal.SIGTSTP, signal.SIGTTOU, signal.SIGCONT, signal.SIGWINCH)
"""Signals that Textual handles while the screen is on, and this module afterwards."""
LEAVE_SECONDS = 5.0
"""How long a screen has to leave once nothing keeps this process any more."""
HUNG_UP = 128 + signal.SIGHUP
_GOES_ON = """\
{name} goes on training without its screen, in process {pid}.
forge-tui attaches again; Ctrl-C, or forge stop, stops with a checkpoint.
"""


class Guard(Signals):
    """Stands beside the screen, and beside the run once the screen is gone."""

    def __init__(
        self,
        engine: EnginePort | None,
        home: Home,
        terminal: Terminal,
        tell: Callable[[int], Any],
        leave: Callable[[int | None], Any],
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        """Nothing is handled before the block begins.

        Args:
            engine: whose run is looked after; none when this process only looks.
            home: where its session has its log.
            terminal: what the screen is shown on.
            tell: says on the screen, from another thread, that a signal came.
            leave: asks the screen, from another thread, to leave: with an exit code, or without one when a
                run goes on.
            end: ends the process at once.
        """
        super().__init__(None, end)
        self._engine = engine
        self._home = home
        self._terminal = terminal
        self._tell = tell
        self._ask_to_leave = leave
        self._read_end, self._write_end = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="forge-guard", daemon=True)
        self._news = threading.Event()
        self._leaving: int | None = None
        self._left = False
        self._closing = False
        self.stopped: str | None = None
        """The session that was stopped because of a signal."""
        self.suspensions = 0
        """How often somebody tried to suspend a run without a screen."""

    def __enter__(self) -> Guard:
        self._thread.start()
        super().__enter__()
        borrowed: dict[int, Any] = {number: signal.getsignal(number) or signal.SIG_DFL for number in BORROWED}
        self._before = {**borrowed, **self._before}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
        super().__exit__(kind, error, trace)
        os.close(self._read_end)
        os.close(self._write_end)

    # --- for the main thread ------------------------------------------------------------------------

    def screen_left(self) -> None:
        """To be called when the screen is gone: what Textual left behind no longer answers signals."""
        self._left = True
        for number in (signal.SIGCONT, signal.SIGWINCH):
            signal.signal(number, signal.SIG_DFL)
        # A run that somebody wants to go on must not be stopped by a key, nor for writing to a terminal.
        signal.signal(signal.SIGTSTP, self._on_suspend)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def rest(self, seconds: float) -> None:
        """Wait, but not longer than until the next signal."""
        self._news.wait(seconds)
        self._news.clear()

    def finish(self) -> None:
        """Wait for a stop that is under way; nothing is looked after from now on."""
        self._closing = True
        self._wake()
        self._thread.join()

    # --- handlers -----------------------------------------------------------------------------------

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        super()._on_stop(number, frame)
        self._wake()

    def _on_suspend(self, _number: int, _frame: FrameType | None) -> None:
        self.suspensions += 1
        self._wake()

    def _hang_up(self) -> None:
        self.hung_up = True
        self._wake()

    def _put_right(self, last: bytes = b"") -> None:
        self._terminal.put_right(last.decode())

    def _wake(self) -> None:
        os.write(self._write_end, b"!")

    # --- the thread ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            in_time = self._wait()
            if self.hung_up and not self._terminal.gone:
                self._lose_terminal()
            if self.stop is not None and self._leaving is None:
                self._stop_run(self.stop)
            self._news.set()
            if self._closing:
                return
            if not in_time and not self._left:
                self._insist()

    def _wait(self) -> bool:
        """Wait for a signal, or for the terminal to go; false where the screen should have left by now."""
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        if not self._terminal.gone:
            # Without a signal, where SIGHUP is ignored, this is all that is heard of it.
            poll.register(self._terminal.fd, 0)
        overdue = (self._leaving is not None or self.hung_up) and not self._left
        found = dict(poll.poll(LEAVE_SECONDS * 1000 if overdue else None))
        if self._read_end in found:
            os.read(self._read_end, 1 << 12)
        if self._terminal.fd in found:
            self.hung_up = True
        return bool(found)

    def _insist(self) -> None:
        """A screen that has not left in time is asked again while a run goes on, and else left behind."""
        if self._hosted() is not None:
            # A hang-up may have come before there was a screen to ask.
            self._ask_to_leave(self._leaving)
            return
        self._put_right()
        self._leave(self._leaving or HUNG_UP)

    def _lose_terminal(self) -> None:
        """Let the run go on without a screen; without one, the screen's end is the end."""
        hosted = self._hosted()
        if not self._terminal.hung_up():
            # Only the signal came, as from `kill -HUP`: somebody is still there, and wants it as it was.
            self._terminal.put_right("" if hosted is None else self._farewell(hosted))
        self._terminal.give_up(None if hosted is None else self._home.session(hosted).log)
        self._ask_to_leave(HUNG_UP if hosted is None else None)

    def _farewell(self, hosted: str) -> str:
        from forge_tui.services.lookup import session_name

        return _GOES_ON.format(name=session_name(self._home, hosted), pid=os.getpid())

    def _stop_run(self, number: int) -> None:
        self._tell(number)
        self.stopped = self._hosted()
        if self._engine is not None:
            # Whatever the run says in the end is in its log and in the registry.
            with contextlib.suppress(Exception):
                why = f"stopped by {asker(number)}"
                self._engine.shutdown(keep_training=False, reason=why)
        self._leaving = 128 + number
        self._ask_to_leave(self._leaving)
        if self._terminal.stalled:
            # The screen waits for somebody to read it, and would wait for ever.
            self._terminal.put_right()
            self._terminal.give_up(None)

    def _hosted(self) -> str | None:
        return None if self._engine is None else self._engine.hosted()
