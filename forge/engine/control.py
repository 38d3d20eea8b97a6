"""Requests to a running session: from `command` rows, or from a signal, to the next step boundary.

The recorder thread claims rows and puts them here; the phase loop takes them between two steps and answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from forge.registry import CommandRow, Registry, edits

KINDS = ("pause", "resume", "stop", "checkpoint")


class Control:
    """Requests waiting for the next step boundary."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._commands: list[CommandRow] = []
        self._stop_reason: str | None = None

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

    @property
    def pending(self) -> bool:
        """Whether anything waits; read once a step, so it takes no lock."""
        return bool(self._commands) or self._stop_reason is not None

    @property
    def stop_reason(self) -> str | None:
        """Why this process was told to stop; none while it was not."""
        return self._stop_reason

    def take(self) -> list[CommandRow]:
        """Remove and return the waiting commands, oldest first."""
        with self._condition:
            commands, self._commands = self._commands, []
            return commands

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
        session_id: str,
        lease: str,
        control: Control,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._session = session_id
        self._lease = lease
        self._control = control
        self._clock = clock
        self._version: int | None = None

    def poll(self) -> None:
        """Claim what was requested since the last look; costs one pragma when nothing changed."""
        version = self._registry.data_version()
        if version == self._version:
            return
        self._version = version
        now = self._clock()
        claimed = self._registry.write(lambda c: edits.claim_commands(c, self._session, self._lease, now))
        for command in claimed:
            if command.kind in KINDS:
                self._control.submit(command)
            else:
                self.answer(
                    command, done=False, text=f"this version does not know the command {command.kind}"
                )

    def answer(self, command: CommandRow, *, done: bool, text: str) -> None:
        """Record what became of a command."""
        now = self._clock()
        outcome: Literal["done", "refused"] = "done" if done else "refused"
        self._registry.write(lambda c: edits.answer_command(c, command.id, outcome, text, now))
