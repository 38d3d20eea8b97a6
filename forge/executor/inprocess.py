"""Items one after the other, in this process; the setup is made when the first is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic

from forge.executor import Arrived, Make, Result, Setup, Work


class InProcess(Generic[Setup, Result]):
    """See `Executor`."""

    def __init__(self, make: Make[Setup, Result], setup: Setup) -> None:
        self._make, self._setup = make, setup
        self._work: Work[Result] | None = None

    def run(self, items: Sequence[Any], arrived: Arrived[Result]) -> Iterator[Result]:
        """See `Executor.run`."""
        for place, item in enumerate(items):
            if self._work is None:
                self._work = self._make(self._setup)
            result = self._work(item)
            arrived(place, result)
            yield result

    def close(self) -> None:
        """See `Executor.close`."""
        self._work = None
