"""The application with a pretended run in it, as a program: signals and lost terminals need a real process.

    python -m tests.ui.hosted HOME FOLDER [MODE …]

Files in the folder say what became of the run: `checkpoint` when it was stopped with one, `steps` with a byte
for each step it has made, `threads` with the names of this program's threads at the last of them. A file
`end` there lets it come to its end.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import forge_tui.headless
from forge.home import Home
from forge_tui.__main__ import run_app
from forge_tui.app import ForgeApp
from forge_tui.ports import CLOSED
from tests.ui.seed import FIRST, FakeEngine


class PretendedRun(FakeEngine):
    """Makes steps in a thread of its own until it is told to stop."""

    def __init__(self, folder: Path, modes: frozenset[str]) -> None:
        super().__init__(hosting=None if "idle" in modes else FIRST)
        self.folder, self.modes = folder, modes
        self._stop = threading.Event()
        self._training = threading.Thread(target=self._train, name="forge-train")
        if self.hosting is not None:
            self._training.start()

    def _train(self) -> None:
        with (self.folder / "steps").open("ab", buffering=0) as steps:
            while not self._stop.wait(0.005) and not (self.folder / "end").exists():
                steps.write(b".")
                listing = self.folder / "threads.new"
                listing.write_text("\n".join(thread.name for thread in threading.enumerate()), "utf-8")
                listing.replace(self.folder / "threads")
        self.hosting = None

    def shutdown(self, *, keep_training: bool, reason: str = CLOSED) -> None:
        """Write the checkpoint, or never come to it."""
        if self.hosting is None:
            return
        if "stuck" in self.modes:
            threading.Event().wait()
        self._stop.set()
        self._training.join()
        (self.folder / "checkpoint").write_text("", "utf-8")


class Watched(ForgeApp):
    """Fails, or prints, after its first look when it is told to."""

    modes: frozenset[str] = frozenset()

    async def _look(self) -> None:
        await super()._look()
        if "noisy" in self.modes and self.pulse.looks == 1:
            os.write(1, b"a C library prints\n")
            print("a Python library warns", file=sys.stderr)
        if "crash" in self.modes and self.pulse.looks:
            raise RuntimeError("a bug in the screen")


def main() -> int:
    """Run it."""
    home, folder, modes = Home(Path(sys.argv[1])), Path(sys.argv[2]), frozenset(sys.argv[3:])
    forge_tui.headless.PROGRESS_SECONDS = 0.02
    engine = PretendedRun(folder, modes)
    app = Watched(home, engine=engine)
    app.modes = modes
    return run_app(app, engine, home)


if __name__ == "__main__":
    sys.exit(main())
