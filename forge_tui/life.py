"""What signals mean to the application, whatever state its screen is in.

A handler only writes one byte into a pipe. A thread of its own reads it, stops the run with a checkpoint and
then asks the screen to leave; a screen that cannot, because its terminal is gone or takes no output, is left
behind. Nothing is saved inside a handler, and no training step waits for one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forge_tui.ports import EnginePort

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LEAVE_SECONDS = 5.0
"""How long a screen has to leave once the run has ended."""

_RESTORE = (
    b"\x1b[?1049l\x1b[?25h"  # back from the alternate screen, with a cursor
    b"\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[?1015l\x1b[?1016l"  # without the mouse
    b"\x1b[?2004l\x1b[?1004l"  # without brackets round what is pasted, and without events of focus
    b"\x1b[<u\x1b[0m\r\n"  # with plain keys and colours
)


class Signals:
    """Handlers for the life of the process: the first signal stops with a checkpoint, the second at once."""

    def __init__(
        self,
        engine: EnginePort | None,
        tell: Callable[[int], Any],
        leave: Callable[[int], Any],
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        """Nothing is handled before `install`.

        Args:
            engine: whose run is stopped; none when this process only looks.
            tell: says on the screen, from another thread, that a signal came.
            leave: asks the screen, from another thread, to leave with an exit code.
            end: ends the process at once.
        """
        self._engine = engine
        self._tell = tell
        self._leave = leave
        self._end = end
        self._read_end, self._write_end = os.pipe()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="forge-signals", daemon=True)
        self._modes = _modes()
        self.received: int | None = None
        """The signal that asked for an end; none while nobody did."""

    def install(self) -> None:
        """Listen from now on, except to what the parent wants ignored, as `nohup` does."""
        self._thread.start()
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def finished(self) -> int | None:
        """To be called when the screen has gone: waits for a stop that is under way.

        Returns:
            The exit code that a signal asked for; none when there was no signal.
        """
        self._done.set()
        if self.received is None:
            return None
        self._thread.join()
        return 128 + self.received

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            self._end_at_once(128 + number)
        self.received = number
        os.write(self._write_end, b"!")

    def _serve(self) -> None:
        os.read(self._read_end, 1)
        number = self.received or signal.SIGTERM
        self._tell(number)
        if self._engine is not None:
            # Whatever the run says in the end is in its log and in the registry.
            with contextlib.suppress(Exception):
                self._engine.shutdown(keep_training=False)
        self._leave(128 + number)
        if not self._done.wait(LEAVE_SECONDS):
            self._end_at_once(128 + number)

    def _end_at_once(self, code: int) -> None:
        # A terminal that takes no output now must not keep the process alive.
        if os.isatty(2) and select.select([], [2], [], 0)[1]:
            os.write(2, _RESTORE)
            if self._modes is not None:
                termios.tcsetattr(2, termios.TCSANOW, self._modes)
        self._end(code)


def _modes() -> list[Any] | None:
    """How the terminal was before the screen came; none when there is no terminal."""
    return termios.tcgetattr(2) if os.isatty(2) else None
