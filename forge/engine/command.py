"""Runs a person's own command, such as `notify.on_finish`, so that it can do a run no harm.

It has a session of its own, no input, a bounded time and a bounded say. What it is told comes in environment
variables, which the shell never reads as code.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60.0
MOST_OUTPUT = 16_384
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int | None
    """Its exit status, negative for a signal; none when its time was up and it was killed."""
    output: str
    """The beginning of what it printed."""

    @property
    def sentence(self) -> str:
        """How it ended, in words."""
        if self.code is None:
            return f"did not end within {SECONDS:.0f} seconds and was killed"
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


def run(command: str, variables: Mapping[str, str], folder: Path, seconds: float = SECONDS) -> Ran:
    """Run a line of shell in a folder and wait for it; what it leaves in the background is left alone.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, **{name: value.replace("\0", "") for name, value in variables.items()}},
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as pipe:
        output = _read(process, pipe.fileno(), time.monotonic() + seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return Ran(None, output)
    return Ran(process.returncode, output)


def _read(process: subprocess.Popen[bytes], pipe: int, deadline: float) -> str:
    """What it prints until it ends or its time is up; what is too much is read and dropped."""
    kept = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if not selector.select(_LOOK_SECONDS):
                if process.poll() is not None:
                    break  # something in the background still holds the pipe
                continue
            if not (data := os.read(pipe, 65_536)):
                _wait(process, deadline)
                break
            kept += data[: MOST_OUTPUT - len(kept)]
    return kept.decode("utf-8", "replace")


def _wait(process: subprocess.Popen[bytes], deadline: float) -> None:
    """It has closed its output, and may still be at work."""
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return  # whoever reads finds that it has not ended
