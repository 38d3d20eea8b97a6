"""The real engine behind the port, imported when it is first needed.

The first frame must not wait for what only a person who starts something needs.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from forge_tui.ports import CLOSED

if TYPE_CHECKING:
    from forge.config import PipelineConfig
    from forge.home import Home
    from forge.registry import Registry
    from forge_tui.ports import EnginePort


class LazyEngine:
    """Builds `forge.engine.Engine` on the first call, whichever thread makes it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._engine: EnginePort | None = None
        self._lock = threading.Lock()

    def _real(self) -> EnginePort:
        with self._lock:
            if self._engine is None:
                from forge.engine import Engine

                self._engine = Engine(self._home)
            return self._engine

    @property
    def notice(self) -> str | None:
        """What the registry has to say, such as being newer than this program; none before the first call."""
        return getattr(getattr(self._engine, "registry", None), "notice", None)

    @property
    def registry(self) -> Registry:
        """The registry that the real engine writes to."""
        return self._real().registry

    def create(self, config: PipelineConfig, name: str | None = None) -> str:
        """Make a new session and return its id."""
        return self._real().create(config, name)

    def start(self, session_id: str) -> object:
        """Run the session where it wants to be run."""
        return self._real().start(session_id)

    def request(self, session_id: str, kind: str, **args: object) -> object:
        """Ask whoever runs the session for something."""
        return self._real().request(session_id, kind, **args)

    def resume(self, session_id: str) -> object:
        """Let a session go on."""
        return self._real().resume(session_id)

    def hosted(self) -> str | None:
        """The session that a thread of this process runs; an engine that was never needed runs none."""
        return None if self._engine is None else self._engine.hosted()

    def reconcile(self) -> list[str]:
        """Mark sessions whose owner died."""
        return self._real().reconcile()

    def shutdown(self, *, keep_training: bool, reason: str = CLOSED) -> None:
        """Stop the hosted session, or leave it running."""
        if self._engine is not None:
            self._engine.shutdown(keep_training=keep_training, reason=reason)
