"""One line on the terminal that says how far a command is; nothing where there is no terminal."""

from __future__ import annotations

import sys

from forge import units
from forge.streams import inside
from forge.text import clean


class Percentage:
    """Drawn again when its percentage changes."""

    def __init__(self, what: str, *, shown: bool) -> None:
        self._what = what
        self._shown = shown
        self._stream = inside(sys.stderr)
        self._last = ""

    def show(self, done: int, of: int) -> None:
        """So much is done."""
        text = f"{self._what} {units.percent(done, of)}"
        if self._shown and text != self._last:
            self._last = text
            self._stream.write(f"\r{clean(text)}\x1b[K")
            self._stream.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._last:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
