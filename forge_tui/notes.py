"""A note in the home for as long as a screen is on a terminal, so that a killed one is noticed.

The kernel drops the lock on a note with its holder: a note that is there and that nobody holds belongs to a
program that had no chance to put its terminal right.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forge import locks
from forge.home import Home

ADVICE = (
    "forge-tui was killed on this terminal (process {pid}) and could not put it right. That is done now as "
    "far as it can be; if keys, colours or the cursor are still odd, type: reset (or: stty sane)\n"
)
STILL_ODD = "if keys, colours or the cursor are odd here (a forge-tui was killed before), type: reset\n"


@contextmanager
def note(home: Home | None, terminal: str) -> Iterator[None]:
    """Keep a note of the screen on a terminal while the block lasts; whatever goes wrong with it is let be.

    Args:
        home: where it is kept; none keeps none.
        terminal: the terminal's name, such as /dev/pts/3; empty where it has none.
    """
    if home is None or not terminal:
        yield
        return
    path = _path(home, terminal)
    with contextlib.ExitStack() as stack:
        # A full disk keeps nobody from looking at a run.
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if stack.enter_context(locks.hold(path)):
                stack.callback(path.unlink, missing_ok=True)
                path.write_text(json.dumps({"pid": os.getpid(), "leader": os.getsid(0)}), "utf-8")
        yield


def killed(home: Home, terminal: str) -> int | None:
    """The process of a screen that was killed on this very terminal; none when its last one ended well."""
    path = _path(home, terminal)
    try:
        if not path.is_file() or locks.is_held(path):
            return None
        found = json.loads(path.read_text("utf-8"))
        # The next window gets the same name for its terminal, but another shell.
        return int(found["pid"]) if found["leader"] == os.getsid(0) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(home: Home, terminal: str) -> Path:
    return home.screens / terminal.strip("/").replace("/", "-")
