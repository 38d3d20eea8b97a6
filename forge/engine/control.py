"""Requests to a running session: from `command` rows, or from a signal, to the next step boundary.

The recorder thread claims rows and puts them here; the phase loop takes them between two steps and answers.
Every claimed command is answered, whenever the run ends.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from forge.engine.outbox import Outbox
from forge.registry import CommandRow, Connection, Registry, edits, queries

KINDS = ("pause", "resume", "stop", "checkpoint")


class Control:
    """Requests waiting for the next step boundary."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._commands: deque[CommandRow] = deque()
        self._stop_reason: str | None = None
        self.lost: str | None = None
        """Why the session is no longer this process's: nothing of it may be written any more."""

    def submit(self, command: CommandRow) -> None:
        """Hand over a claimed command."""
        with self._condition:
            self._commands.append(command)
            self._condition.notify_all()

    def request_stop(self, reason: str) -> None:
        """Ask this process to stop at the next step (a signal, or the program is ending)."""
        with self._condition:
            self._stop_reason = reason
            self._condition.notify_all()

    def lose(self, reason: str) -> None:
        """End at the next step without saving anything: the session has another owner."""
        with self._condition:
            self.lost = reason
            self._condition.notify_all()

    @property
    def pending(self) -> bool:
        """Whether anything waits; read once a step, so it takes no lock."""
        return bool(self._commands) or self._stop_reason is not None or self.lost is not None

    @property
    def stop_reason(self) -> str | None:
        """Why this process was told to stop; none while it was not."""
        return self._stop_reason

    def take(self) -> CommandRow | None:
        """Remove and return the oldest waiting command; the others wait on, to be answered in any case."""
        with self._condition:
            return self._commands.popleft() if self._commands else None

    def wait(self, timeout: float) -> None:
        """Sleep until something waits, at most `timeout` seconds."""
        with self._condition:
            if not self.pending:
                self._condition.wait(timeout)


class CommandDesk:
    """Claims command rows of one lease for `Control`, and writes their answers."""

    def __init__(
        self,
        registry: Registry,
        outbox: Outbox,
        session_id: str,
        lease: str,
        control: Control,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._outbox = outbox
        self._session = session_id
        self._lease = lease
        self._control = control
        self._clock = clock
        self._version: int | None = None

    def poll(self) -> None:
        """Claim what was requested since the last look; costs one pragma when nothing changed.

        Raises:
            RegistryError: the registry does not answer; the next poll looks again.
        """
        version = self._registry.data_version()
        if version == self._version:
            return
        # A read first: a transaction for nothing at every commit of anyone would stand in the others' way.
        waiting = self._registry.fetch(queries.open_commands(self._session))
        if any(command.state == "requested" for command in waiting):
            for command in self._outbox.write(self._claim):
                self._control.submit(command)
        # Only now: had the claim failed, the next poll has to find the change again.
        self._version = version

    def answer(self, command: CommandRow, *, done: bool, text: str) -> None:
        """Record what became of a command."""
        now = self._clock()
        outcome: Literal["done", "refused"] = "done" if done else "refused"
        self._outbox.post(lambda c: edits.answer_command(c, command.id, outcome, text, now))

    def refuse_rest(self, text: str) -> None:
        """Answer what nobody took before the run ended."""
        while (command := self._control.take()) is not None:
            self.answer(command, done=False, text=text)

    def _claim(self, c: Connection) -> list[CommandRow]:
        """Claim what was asked of this lease; refuses at once what is not known here."""
        now = self._clock()
        claimed = edits.claim_commands(c, self._session, self._lease, now)
        for command in claimed:
            if command.kind not in KINDS:
                text = f"this version does not know the command {command.kind}"
                edits.answer_command(c, command.id, "refused", text, now)
        return [command for command in claimed if command.kind in KINDS]
