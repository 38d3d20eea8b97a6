"""Items over several workers, each of which has one at a time; so a death says over which item it came.

An item whose worker died goes to a new one, once. Twice is no accident.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Generic, Protocol

from forge.errors import TrainingError
from forge.executor import Arrived, Result

TRIES = 2
"""Workers that an item may cost."""


class WorkerDied(Exception):
    """A worker ended without a result; the text says how."""


class Pool(Protocol[Result]):
    """How workers are made and asked; a handle stands for one item that is being worked on."""

    def start(self) -> Any:
        """A new worker."""
        ...

    def submit(self, worker: Any, item: Any) -> Any:
        """Give a worker an item; a handle.

        Raises:
            WorkerDied: the worker is no more.
        """
        ...

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Those of the handles that are done, at least one."""
        ...

    def result(self, worker: Any, handle: Any) -> Result:
        """What the work returned or raised.

        Raises:
            WorkerDied: the worker is no more.
        """
        ...

    def stop(self, worker: Any) -> None:
        """Let a worker go."""
        ...


class Slots(Generic[Result]):
    """See `Executor`; as many workers as slots, started when there is work for them."""

    def __init__(self, pool: Pool[Result], workers: int) -> None:
        self._pool = pool
        self._idle: list[Any] = []
        self._unused = workers
        self._busy: dict[Any, tuple[Any, int]] = {}
        """Handle to worker and place of the item."""

    def run(self, items: Sequence[Any], arrived: Arrived[Result]) -> Iterator[Result]:
        """See `Executor.run`."""
        waiting, deaths = deque(range(len(items))), Counter[int]()
        there: dict[int, Result] = {}
        failed: dict[int, Exception] = {}
        for due in range(len(items)):
            while due not in there and due not in failed:
                self._hand_out(waiting, items)
                for handle in self._pool.wait(list(self._busy)):
                    worker, place = self._busy.pop(handle)
                    try:
                        there[place] = self._pool.result(worker, handle)
                    except WorkerDied as death:
                        self._bury(worker, place, deaths, str(death))
                        waiting.appendleft(place)
                        continue
                    except Exception as error:  # noqa: BLE001 - raised when its turn comes
                        failed[place] = error
                    else:
                        arrived(place, there[place])
                    self._idle.append(worker)
            if due in failed:
                raise failed[due]
            yield there.pop(due)

    def close(self) -> None:
        """See `Executor.close`."""
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._pool.stop(worker)
        self._idle, self._busy = [], {}

    def _hand_out(self, waiting: deque[int], items: Sequence[Any]) -> None:
        while waiting and (self._idle or self._unused):
            if not self._idle:
                self._idle.append(self._pool.start())
                self._unused -= 1
            worker, place = self._idle.pop(), waiting.popleft()
            try:
                self._busy[self._pool.submit(worker, items[place])] = (worker, place)
            except WorkerDied:
                # While it had nothing to do, so over no item.
                self._let_go(worker)
                waiting.appendleft(place)

    def _let_go(self, worker: Any) -> None:
        self._pool.stop(worker)
        self._unused += 1

    def _bury(self, worker: Any, place: int, deaths: Counter[int], how: str) -> None:
        self._let_go(worker)
        deaths[place] += 1
        if deaths[place] == TRIES:
            raise TrainingError(
                f"a worker died over candidate {place + 1} of this batch, and so did the one that tried it "
                f"again: {how}. Take fewer workers, or executor: inprocess, and resume; what was measured is "
                "kept."
            )
