"""An empty Textual screen with the libraries that Forge's own stands on: the least that it could cost."""

from __future__ import annotations

import aiosqlite  # noqa: F401, TID251 - loaded for its weight, never used
import numpy as np  # noqa: F401
import pydantic  # noqa: F401
from textual.app import App, ComposeResult
from textual.widgets import Static


class Floor(App[None]):
    """Nothing but a line of text."""

    def compose(self) -> ComposeResult:
        """The line that is waited for."""
        yield Static("nothing to see")


if __name__ == "__main__":
    Floor().run()
