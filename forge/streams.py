"""The last door before a terminal: what is printed by whatever means is made harmless there.

Messages are cleaned where they are made, and tables with their cells. This is for what others print with
names and paths in it: usage errors, tracebacks, warnings of libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from forge.text import clean_lines


class Harmless:
    """A text stream that lets nothing pass but text and line ends."""

    def __init__(self, stream: TextIO, *, terminal: bool = True) -> None:
        self.inner = stream
        """For the few who move the cursor themselves; see `inside`."""
        self._terminal = terminal

    def write(self, text: str) -> int:
        """Write `text` as what it shows."""
        self.inner.write(clean_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one text after the other."""
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """Whether it is a terminal; one that was denied gets no colours from others either."""
        return self._terminal and self.inner.isatty()

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            # There would be the way past this.
            raise AttributeError(name)
        return getattr(self.inner, name)


def guard(*, terminal: bool = True) -> None:
    """Make stderr harmless for the rest of this process, and stdout where it is a terminal.

    Args:
        terminal: whether stderr may still be taken for a terminal by who writes to it.
    """
    for stream in (sys.stdout, sys.stderr):
        # A locale without some character is no reason to fail in the middle of an answer.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout.isatty():
        # What goes into a file or a pipe is data, for a program.
        sys.stdout = cast(TextIO, Harmless(sys.stdout))
    sys.stderr = cast(TextIO, Harmless(sys.stderr, terminal=terminal))


def inside(stream: TextIO) -> TextIO:
    """The stream itself, for who draws with control sequences of its own and cleans what stands in them."""
    return stream.inner if isinstance(stream, Harmless) else stream
