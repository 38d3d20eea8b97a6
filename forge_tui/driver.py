"""Textual's driver on the screen's own way to the terminal.

Once the terminal is gone its threads end, and a signal that comes late changes nothing any more: the kernel
sends SIGCONT along with SIGHUP, on which Textual would put a screen that has ended back on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from textual.app import App
from textual.drivers.linux_driver import LinuxDriver

from forge_tui.terminal import Terminal


class TerminalDriver(LinuxDriver):
    """A driver for one `Terminal`; see `driver_of`."""

    terminal: Terminal
    may_suspend: Callable[[], bool]

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        # Whatever has a `write` and a `flush` serves Textual as a file.
        self._file = cast(Any, self.terminal)
        self.fileno = self.terminal.fd
        self.input_tty = True
        self._suspended = False
        self.terminal.when_gone = self.exit_event.set
        if self.terminal.gone:
            self.exit_event.set()

    def _get_terminal_size(self) -> tuple[int, int]:
        return self.terminal.size()

    def start_application_mode(self) -> None:
        """Take the terminal over."""
        self.terminal.on_screen = True
        super().start_application_mode()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write what is left to write."""
        super().close()
        self.terminal.on_screen = False

    def run_input_thread(self) -> None:
        """Read keys until the screen, or the terminal, is gone."""
        while not self.exit_event.is_set():
            try:
                super().run_input_thread()
            except BlockingIOError:
                continue  # somebody else has read it first
            except OSError:
                # It hung up, or we are in the background: there are no keys any more.
                self.exit_event.wait()

    def _sigtstp_application(self, *_: object) -> None:
        if not self.terminal.gone and self.may_suspend():
            self._suspended = True
            super()._sigtstp_application()

    def _sigcont_application(self, *_: object) -> None:
        if self._suspended and not self.terminal.gone:
            self._suspended = False
            super()._sigcont_application()


def driver_of(terminal: Terminal, may_suspend: Callable[[], bool]) -> type[TerminalDriver]:
    """The class of a driver for one terminal.

    Args:
        terminal: what it reads and writes.
        may_suspend: asked on the main thread whether SIGTSTP may stop this process.
    """
    own = {"terminal": terminal, "may_suspend": staticmethod(may_suspend)}
    return type("TerminalDriver", (TerminalDriver,), own)
