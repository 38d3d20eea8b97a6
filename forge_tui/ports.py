"""What the screens ask of the engine, and of the clock; tests put fakes in their place.

Every call of the engine may block for seconds: it belongs in a thread worker, never on the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from forge.config import PipelineConfig
    from forge.registry import Registry

CLOSED = "the program that hosted it was closed"
"""Why a run stops that nobody stopped by a signal."""

Clock = Callable[[], float]
"""Seconds since the epoch."""

wall_clock: Clock = time.time


class EnginePort(Protocol):
    """Start, steer and stop sessions."""

    @property
    def registry(self) -> Registry:
        """The registry, to be changed through this process's one writing thread."""
        ...

    def create(self, config: PipelineConfig, name: str | None = None) -> str:
        """Make a new session and return its id; nothing runs yet."""
        ...

    def start(self, session_id: str) -> object:
        """Run it where it wants to be run, a second one in a process of its own; returns once that is so."""
        ...

    def request(self, session_id: str, kind: str, **args: object) -> object:
        """Ask whoever runs the session to pause, resume, stop or checkpoint."""
        ...

    def resume(self, session_id: str) -> object:
        """Let a paused session go on, or start one that had ended."""
        ...

    def hosted(self) -> str | None:
        """The session that a thread of this process runs, while that thread lives."""
        ...

    def reconcile(self) -> list[str]:
        """Mark sessions whose owner died as interrupted; returns their ids."""
        ...

    def shutdown(self, *, keep_training: bool, reason: str = CLOSED) -> None:
        """Stop the hosted session at its next step with a checkpoint, or leave it running."""
        ...
