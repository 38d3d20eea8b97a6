"""What the workers of the tests do; a module of its own, because a spawned process has to import it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from forge.errors import MergeError

PATIENCE = 60
"""Seconds that a worker waits for another; a test that needs them fails."""


def make(folder: Path) -> Callable[[str], str]:
    """The setup is the folder that the workers share; each leaves a note that it was made."""
    (folder / f"made-{os.getpid()}").touch()

    def work(item: str) -> str:
        word, _, argument = item.partition(" ")
        match word:
            case "echo":
                pass
            case "fail":
                raise MergeError(f"{argument} cannot be merged")
            case "wait":
                wait_for(folder / argument)
            case "touch":
                (folder / argument).touch()
            case "die":
                die_once(folder / argument)
            case "always":
                os.kill(os.getpid(), signal.SIGKILL)
            case "pid":
                return str(os.getpid())
        return item.upper()

    return work


def make_badly(folder: Path) -> Callable[[str], str]:
    """A setup that cannot be made."""
    raise MergeError(f"{folder} holds no models")


def wait_for(path: Path) -> None:
    """Until somebody makes the file."""
    pause = threading.Event()
    for _ in range(PATIENCE * 100):
        if path.exists():
            return
        pause.wait(0.01)
    raise TimeoutError(path)


def die_once(path: Path) -> None:
    """As `kill -9`, the first time."""
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
