"""What goes with a run and is no part of it: cleaning up round it, and telling a person how it ended.

None of it may delay a step or fail a run. Whatever goes wrong here is said in the session's log, and where
a person has to do something about it, in an event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from forge.config import HomeSettings, load_settings
from forge.engine import command
from forge.engine.journal import Journal
from forge.errors import ConfigError, ForgeError
from forge.home import Home
from forge.registry import Registry, SessionRow, State, cleanup
from forge.retention import sweep
from forge.text import clean

AGAIN_SECONDS = 60.0
"""A run that stands still for want of room looks for some so often."""
_TELLS = frozenset({State.COMPLETED, State.FAILED, State.STOPPED, State.INTERRUPTED})
"""Every end; who asked for a stop may sit at another terminal than who waits for the run."""
_CLEANS = frozenset({State.COMPLETED, State.FAILED})


class Aftercare:
    """The care for one hosted run; each task has a thread of its own, but where a caller waits for room."""

    def __init__(
        self,
        home: Home,
        registry: Registry,
        session: SessionRow,
        journal: Journal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._registry = registry
        self._session = session
        self._journal = journal
        self._clock = clock
        self._threads: list[threading.Thread] = []
        self._looked = -AGAIN_SECONDS

    def begun(self) -> None:
        """The run has begun: clean up beside it."""
        self._start("forge-clean", self._clean)

    def paused(self, why: str) -> None:
        """The run stands still by itself: tell a person."""
        self._start("forge-notice", lambda: self._notify(State.PAUSED, why))

    def ended(self, state: State, message: str) -> None:
        """The run has ended and its lease is free: tell a person, and clean up."""
        if state in _TELLS:
            self._start("forge-notice", lambda: self._notify(state, message))
        if state in _CLEANS:
            self._start("forge-clean", self._clean)

    def make_room(self) -> str:
        """Clean up now, on the caller's thread, because a checkpoint found no room.

        Returns:
            What a person could still free, as the end of a sentence; empty where there is nothing.
        """
        if self._clock() - self._looked >= AGAIN_SECONDS:
            self._looked = self._clock()
            self._guarded(self._clean)
        try:
            waiting = sum(row.bytes for row in self._registry.fetch(cleanup.trash()))
        except ForgeError as error:
            return f"; the trash cannot be looked at: {error}".rstrip(".")
        return f'; {waiting / 1e6:.0f} MB are in the trash, "forge trash empty" frees them' if waiting else ""

    def wait(self, seconds: float) -> bool:
        """Wait for what was begun; whether all of it came to its end."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self, name: str, task: Callable[[], None]) -> None:
        # A daemon: neither a slow disk nor somebody's command may keep the process from ending.
        thread = threading.Thread(target=self._guarded, args=[task], name=name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.remove(thread)
            self._journal.line("care", f"{name} could not be started: {error}", level="warning")

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except ConfigError as error:
            self._journal.event("settings", f"no cleanup and no notice: {error}", level="warning")
        except ForgeError as error:
            self._journal.line("care", str(error), level="warning")
        except Exception as error:  # noqa: BLE001 - a mistake here must not end a run
            self._journal.line("care", f"{type(error).__name__}: {error}", level="warning")

    def _settings(self) -> HomeSettings:
        return load_settings(self._home.settings)

    def _clean(self) -> None:
        retention = self._settings().retention
        if not retention.auto:
            return
        swept = sweep(self._home, self._registry, retention.policy, now=time.time())
        for sentence in (*swept.reconciled.repaired, *swept.reconciled.problems):
            self._journal.line("cleanup", sentence)
        if swept.doubt is not None and (waits := swept.postponed()) is not None:
            tell = self._journal.event if swept.doubt.news else self._journal.line
            tell("cleanup", waits, level="warning")
        if (message := swept.sentence()) is not None:
            self._journal.event("cleanup", message)

    def _notify(self, state: State, message: str) -> None:
        wanted = self._settings().notify.on_finish
        if wanted is None:
            return
        variables = {
            "FORGE_SESSION": clean(self._session.name),
            "FORGE_SESSION_ID": self._session.id,
            "FORGE_STATE": state.value,
            "FORGE_MESSAGE": clean(message),
            "FORGE_HOME": str(self._home.root),
        }
        try:
            ran = command.run(wanted, variables, self._home.root)
        except OSError as error:
            self._journal.event(
                "on_finish", f"notify.on_finish cannot be run: {error.strerror}", level="warning"
            )
            return
        said = f": {ran.output.rstrip()}" if ran.output.strip() else ""
        self._journal.line("on_finish", f"notify.on_finish {ran.sentence}{said}")
        if ran.code != 0:
            text = f"notify.on_finish {ran.sentence}; the session's log has its output"
            self._journal.event("on_finish", text, level="warning")
