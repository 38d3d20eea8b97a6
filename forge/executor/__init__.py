"""Where a population is measured: in this process, in processes of its own, or by Ray.

A seam and no scheduler: results come in the order of the items, whatever finished first, so what is computed
never depends on where. Workers return values; nothing but the coordinator writes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar

Setup = TypeVar("Setup")
Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)

Work = Callable[[Any], Result]
"""What a worker does with one item."""
Make = Callable[[Setup], Work[Result]]
"""A function of a module, called once in each worker, there with the setup."""
Arrived = Callable[[int, Result], None]
"""Is told, on the coordinator's thread, of the result of the item at a place, as soon as it is there."""

Kind = Literal["inprocess", "processes", "ray"]


class Executor(Protocol[Item, Result]):
    """Measures items."""

    def run(self, items: Sequence[Item], arrived: Arrived[Result]) -> Iterator[Result]:
        """The result of every item, in their order. One `run` ends before the next begins.

        Raises:
            TrainingError: a worker died over an item, and another one over the same.
            Exception: what the work itself raised, when its turn comes.
        """
        ...

    def close(self) -> None:
        """Let the workers go, once they have ended the item that they are at."""
        ...


def open_executor(
    kind: Kind, make: Make[Setup, Result], setup: Setup, workers: int = 1
) -> Executor[Any, Result]:
    """An executor of `workers` workers; the setup has to go through pickle where they are processes.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    if kind == "processes":
        from forge.executor.processes import Processes
        from forge.executor.slots import Slots

        return Slots(Processes(make, setup), workers)
    if kind == "ray":
        from forge.executor.rayed import Rayed
        from forge.executor.slots import Slots

        return Slots(Rayed(make, setup, workers), workers)
    from forge.executor.inprocess import InProcess

    return InProcess(make, setup)


__all__ = ["Arrived", "Executor", "Kind", "Make", "Work", "open_executor"]
