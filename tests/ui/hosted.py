"""The application with a pretended run in it, as a program: signals and lost terminals need a real process.

    python -m tests.ui.hosted HOME MARKER MODE

The marker is written when the run was stopped with a checkpoint.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import forge_tui.__main__ as program
from forge.home import Home
from forge_tui.app import ForgeApp
from tests.ui.seed import FIRST, FakeEngine


class PretendedRun(FakeEngine):
    """Runs until it is told to stop, or for a few questions after the screen has gone."""

    def __init__(self, marker: Path, mode: str) -> None:
        super().__init__(hosting=FIRST)
        self.marker, self.mode = marker, mode
        self.left = 3

    def hosted(self) -> str | None:
        """A short run ends by itself once nobody looks."""
        if self.mode == "short" and threading.current_thread() is threading.main_thread() and not _looking:
            self.left -= 1
            if self.left < 0:
                self.hosting = None
        return super().hosted()

    def shutdown(self, *, keep_training: bool) -> None:
        """Write the checkpoint, or never come to it."""
        if self.hosting is None:
            return
        if self.mode == "stuck":
            threading.Event().wait()
        self.marker.write_text("checkpoint", "utf-8")
        super().shutdown(keep_training=keep_training)


_looking = True


class Watched(ForgeApp):
    """Fails after its first look when it is told to."""

    crash = False

    async def _look(self) -> None:
        await super()._look()
        if self.crash and self.pulse.looks:
            raise RuntimeError("a bug in the screen")


def main() -> int:
    """Run it."""
    global _looking
    home, marker, mode = Home(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
    engine = PretendedRun(marker, mode)
    app = Watched(home, engine=engine)
    app.crash = mode == "crash"
    program.PROGRESS_SECONDS = 0.02
    run = app.run

    def watched(**options: Any) -> str | None:
        global _looking
        try:
            return run(**options)
        finally:
            _looking = False

    app.run = watched  # type: ignore[method-assign]
    return program.run_app(app, engine, home)


if __name__ == "__main__":
    sys.exit(main())
