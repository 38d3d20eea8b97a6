"""A session hosted by a process of its own, which outlives whoever started it (`host: process`).

The starter never holds the lease. The child takes its own and says so through a pipe, and until it does
nothing about the session changes: nobody can take it for dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

from forge.engine.host import HostedRun
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import SessionRow
from forge.signals import Signals, asker

START_SECONDS = 120.0
"""How long a child may take to have its lease: it opens the registry, and nothing heavier, before that."""
_LAST_WORDS = 3
_WAIT_SECONDS = 0.2


class ChildRun:
    """One run of a session in another process, whose parent this one is."""

    def __init__(self, process: subprocess.Popen[bytes], session: SessionRow) -> None:
        """Wait for its end in a thread: nobody else does, and the dead stay in the table of processes."""
        self.session = session
        self.pid = process.pid
        self._process = process
        self._reaper = threading.Thread(target=process.wait, name="forge-child", daemon=True)
        self._reaper.start()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._reaper.is_alive()

    @property
    def exit_code(self) -> int | None:
        """How the process ended, negative for a signal; none while it runs."""
        return self._process.returncode

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask for a checkpoint and an end at the next step, by the signal that the child gives as its reason.

        It has no terminal, so that of a person who pressed Ctrl-C reaches it only from here.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; returns whether it came."""
        self._reaper.join(timeout)
        return not self._reaper.is_alive()


def attend(run: HostedRun | ChildRun, signals: Signals) -> None:
    """Wait for the end of a run, and pass on to it, once, that a signal asked for the end."""
    asked = False
    while not run.wait(_WAIT_SECONDS):
        signals.look()
        if signals.stop is not None and not asked:
            asked = True
            if isinstance(run, ChildRun):
                run.stop(signals.stop)
            else:
                run.stop(f"stopped by {asker(signals.stop)}")


def spawn(home: Home, session: SessionRow, seconds: float = START_SECONDS) -> ChildRun:
    """Start a process that runs the session, and wait until it holds the lease.

    Raises:
        SessionLeasedError: somebody else runs the session.
        ForgeError: it could not be started, or not take the lease; nothing runs.
    """
    log = home.session(session.id).log
    reader, writer = os.pipe()
    try:
        try:
            process = _start(home, session.id, log, writer)
        finally:
            os.close(writer)
        try:
            said = _listen(reader, seconds)
            if said.get("held") is not True:
                raise _why_not(said, process, session, log)
        except BaseException:
            process.kill()
            process.wait()
            raise
    except OSError as error:
        raise ForgeError(
            f"no process could be started for {session.name}: {error.strerror or error}. Nothing runs; try "
            "again, or run it here with --host thread."
        ) from error
    finally:
        os.close(reader)
    return ChildRun(process, session)


def _start(home: Home, session_id: str, log: Path, writer: int) -> subprocess.Popen[bytes]:
    sink = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # -P: what lies in the folder somebody stands in must not take the place of our modules.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "forge.engine.child", str(home.root), session_id, str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=[writer],
            start_new_session=True,
        )
    finally:
        os.close(sink)


def _listen(reader: int, seconds: float) -> dict[str, Any]:
    """What the child says about the lease; empty when it ends without a word."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    if not poll.poll(seconds * 1000):
        return {"error": f"its process did not get to the lease in {seconds:.0f} seconds and was ended."}
    # It says one thing and closes its end: what there is to read ends at once.
    with os.fdopen(os.dup(reader), "rb") as pipe:
        said = pipe.read()
    return json.loads(said) if said else {}


def _why_not(
    said: dict[str, Any], process: subprocess.Popen[bytes], session: SessionRow, log: Path
) -> ForgeError:
    if "error" in said:
        kinds = (kind for kind in ForgeError.__subclasses__() if kind.exit_code == said.get("exit_code"))
        return next(kinds, ForgeError)(said["error"])
    code = process.wait()
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    words = _last_words(log)
    return ForgeError(
        f"the process for {session.name} {how} before it held the lease; nothing runs."
        + (f" Its last words: {words}." if words else "")
        + f' All of them: forge logs "{session.name}".'
    )


def _last_words(log: Path) -> str:
    """The last lines of a log that the journal did not write: those that Python or a library did."""
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            last = deque((line.strip() for line in lines if not line.startswith("{")), _LAST_WORDS)
    except OSError:
        return ""
    return " / ".join(line for line in last if line)
