"""What a person should see of a run: events in the registry, and the same lines in the session's log.

Nothing is lost while the disk refuses: what could not be written waits in memory and goes out first.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from forge.engine import logfile
from forge.engine.outbox import Outbox
from forge.errors import ForgeError
from forge.home import SessionPaths
from forge.registry import edits

MOST_WAITING = 10_000


class Journal:
    """Writes events of one session; used by the phase loop and the recorder thread."""

    def __init__(
        self, outbox: Outbox, session_id: str, paths: SessionPaths, clock: Callable[[], float] = time.time
    ) -> None:
        self._outbox = outbox
        self._session = session_id
        self._log = paths.log
        self._clock = clock
        self._lines: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._torn = False
        """The disk took only a part of the last line."""
        self._lock = threading.Lock()
        self.place: tuple[str | None, int | None] = None, None
        """Phase and step at which the run failed."""

    def event(
        self,
        kind: str,
        message: str,
        *,
        phase: str | None = None,
        step: int | None = None,
        level: str = "info",
        report: Mapping[str, Any] | None = None,
    ) -> None:
        """Record an event in both places; the report of a phase in the log only: its row has it too."""
        now = self._clock()
        self.line(kind, message, phase=phase, step=step, level=level, now=now, report=report)
        self._outbox.post(
            lambda c: edits.add_event(
                c, self._session, kind=kind, message=message, now=now, phase=phase, step=step, level=level
            )
        )

    def line(
        self,
        kind: str,
        message: str,
        *,
        phase: str | None = None,
        step: int | None = None,
        level: str = "info",
        now: float | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one line to the log only."""
        at = self._clock() if now is None else now
        entry = {"at": at, "level": level, "kind": kind, "phase": phase, "step": step, "message": message}
        if report is not None:
            entry["report"] = dict(report)
        with self._lock:
            self._lines.append(json.dumps(entry, ensure_ascii=True).encode() + b"\n")
            self._write()

    def failure(self, error: Exception) -> str:
        """Record why a run failed, with the traceback where it is a mistake of the program; the reason."""
        reason = str(error)
        if not isinstance(error, ForgeError):
            self.line("traceback", "".join(traceback.format_exception(error)), level="error")
            reason = f"{type(error).__name__}: {error} (the traceback is in {self._log})"
        phase, step = self.place
        self.event("error", reason, phase=phase, step=step, level="error")
        return reason

    def _write(self) -> None:
        try:
            descriptor = self._open()
            if os.fstat(descriptor).st_size >= logfile.MOST_BYTES:
                os.close(descriptor)
                self._rotate()
                descriptor = self._open()
        except OSError:
            return  # the disk, or the folder itself, is gone for now: the lines go out with the next one
        try:
            while self._lines:
                # One call a line: another process that appends cannot get in between.
                line = b"\n" + self._lines[0] if self._torn else self._lines[0]
                self._torn = os.write(descriptor, line) < len(line)
                if self._torn:
                    return
                self._lines.popleft()
        except OSError:
            return
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        try:
            logfile.rotate(self._log)
        except OSError:
            # Too long is better than lost: it goes on growing, and the next line tries again.
            return
        self._torn = False


class Flood:
    """Lets the first events of a kind through, then one in a while, and counts those held back."""

    def __init__(
        self, burst: int = 10, period: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst, self._period, self._clock = burst, period, clock
        self._passed: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def admit(self, kind: str) -> int | None:
        """How many of this kind were held back before this one; none when this one has to be held back."""
        now = self._clock()
        passed = self._passed.get(kind, 0)
        if passed >= self._burst and now - self._last[kind] < self._period:
            self._held[kind] = self._held.get(kind, 0) + 1
            return None
        self._passed[kind], self._last[kind] = passed + 1, now
        return self._held.pop(kind, 0)

    def take_held(self) -> dict[str, int]:
        """What was held back and never told, by kind; forgets it."""
        held, self._held = self._held, {}
        return held
