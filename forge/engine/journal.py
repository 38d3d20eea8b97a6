"""What a person should see of a run: events in the registry, and the same lines in the session's log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from forge.home import SessionPaths
from forge.registry import Registry, edits


class Journal:
    """Writes events of one session; used by the phase loop and the recorder thread."""

    def __init__(
        self, registry: Registry, session_id: str, paths: SessionPaths, clock: Callable[[], float] = time.time
    ) -> None:
        self._registry = registry
        self._session = session_id
        self._log = paths.log
        self._clock = clock
        self._lock = threading.Lock()

    def event(
        self,
        kind: str,
        message: str,
        *,
        phase: str | None = None,
        step: int | None = None,
        level: str = "info",
    ) -> None:
        """Record an event in both places."""
        now = self._clock()
        self.line(kind, message, phase=phase, step=step, level=level, now=now)
        self._registry.write(
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
    ) -> None:
        """Append one line to the log only."""
        entry = {"at": now or self._clock(), "level": level, "kind": kind, "phase": phase, "step": step}
        text = json.dumps({**entry, "message": message}, ensure_ascii=True)
        with self._lock, self._log.open("a", encoding="ascii") as log:
            log.write(text + "\n")
