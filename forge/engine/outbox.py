"""Changes to the registry on their way: in order, and kept while the registry does not answer.

A registry that is locked by another process, or whose disk is full, must neither stop a training step nor
lose what the run had to say.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from forge.errors import RegistryError
from forge.registry import Connection, Registry

T = TypeVar("T")
Change = Callable[[Connection], Any]


class Outbox:
    """Posts changes from any thread; what could not be written is tried again by `flush`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: deque[Change] = deque()
        self._writing = threading.Lock()
        self.trouble: str | None = None
        """Why the registry could not be written; none while it answers."""

    def post(self, change: Change) -> None:
        """Write a change, now if the registry answers, else when it does again.

        Raises:
            ForgeError: the change itself is refused, such as a transition that is not allowed.
        """
        self._waiting.append(change)
        if self.trouble is None:
            self.flush()

    def write(self, change: Callable[[Connection], T]) -> T:
        """Write everything posted so far, then this, and return its result.

        Raises:
            RegistryError: the registry cannot be written.
        """
        if not self.flush():
            raise RegistryError(str(self.trouble))
        return self._registry.write(change)

    def flush(self) -> bool:
        """Write what waits; false when the registry still does not answer."""
        with self._writing:
            while self._waiting:
                try:
                    self._registry.write(self._waiting[0])
                except RegistryError as error:
                    self.trouble = str(error)
                    return False
                except BaseException:
                    # Refused for what it is: it will be refused for ever, and nothing may wait behind it.
                    self._waiting.popleft()
                    raise
                self._waiting.popleft()
            self.trouble = None
            return True

    @property
    def waiting(self) -> int:
        """How many changes wait."""
        return len(self._waiting)
