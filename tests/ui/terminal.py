"""A real pseudo-terminal with a program in it: what it writes byte by byte, and what a person would see."""

from __future__ import annotations

import io
import os
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import pexpect
import pyte

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
"""Seconds after which a program that does nothing is taken for hung."""


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, arguments: Sequence[str], size: tuple[int, int] = (120, 40), **env: str) -> None:
        """Start `python` with these arguments, and these variables in its environment."""
        width, height = size
        inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORGE_HOME")}
        self.raw = io.BytesIO()
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self._child = pexpect.spawn(
            sys.executable,
            list(arguments),
            dimensions=(height, width),
            cwd=str(ROOT),
            env={**inherited, "TERM": "xterm-256color", "COLORTERM": "truecolor", "TZ": "UTC", **env},
            timeout=PATIENCE,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close(force=True)

    @property
    def pid(self) -> int:
        """Of the program."""
        return int(self._child.pid)

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(lines_of(self.screen))

    def send(self, keys: str) -> None:
        """Type."""
        self._child.send(keys)

    def wait_for(self, what: str | Callable[[str], bool]) -> str:
        """Read until the screen shows something; returns the screen."""
        shows = what if callable(what) else lambda text: what in text
        end = time.monotonic() + PATIENCE
        while not shows(self.text):
            if not self._read() or time.monotonic() > end:
                raise AssertionError(f"{what} never came; the screen is:\n{self.text}")
        return self.text

    def wait_for_exit(self) -> int:
        """Read to the end; returns the exit code, or minus the signal that ended it."""
        end = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < end, f"the program does not end; the screen is:\n{self.text}"
        self._child.wait()
        code = self._child.exitstatus
        return -int(self._child.signalstatus) if code is None else int(code)

    def hang_up(self) -> None:
        """Close the terminal under the program."""
        self._child.ptyproc.fileobj.close()

    @property
    def cooked(self) -> bool:
        """Whether the line is back as a shell wants it: echoing, line by line."""
        modes = termios.tcgetattr(self._child.fileno())[3]
        return bool(modes & termios.ECHO and modes & termios.ICANON)

    def _read(self) -> bool:
        """Take in what was written; False at the end."""
        try:
            data = self._child.read_nonblocking(65_536, timeout=1)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw.write(data)
        self._stream.feed(data)
        return True


def lines_of(screen: pyte.Screen) -> list[str]:
    """The lines of an emulated screen; its own `display` fails where half a wide character is left."""
    rows = (screen.buffer[y] for y in range(screen.lines))
    return ["".join(row[x].data for x in range(screen.columns)).rstrip() for row in rows]


def left_alternate_screen(raw: bytes) -> bool:
    """Whether the shell's screen is shown again, with a cursor."""
    return raw.rfind(b"\x1b[?1049l") > raw.rfind(b"\x1b[?1049h") and raw.rfind(b"\x1b[?25h") > raw.rfind(
        b"\x1b[?25l"
    )
