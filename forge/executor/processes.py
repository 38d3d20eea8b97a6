"""Workers as spawned processes, each a pool of one of the standard library.

A worker ends with its coordinator, however that ends, and leaves signals from the terminal to it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic

from forge.executor import Make, Result, Setup, Work
from forge.executor.slots import WorkerDied

_HOW = "it was killed, or crashed; a machine that runs out of memory kills what takes most"
_PENDING: tuple[Make[Any, Any], Any] | None = None
_WORK: Work[Any] | None = None


class Processes(Generic[Setup, Result]):
    """See `Pool`."""

    def __init__(self, make: Make[Setup, Result], setup: Setup) -> None:
        self._arguments = make, setup

    def start(self) -> ProcessPoolExecutor:
        """See `Pool.start`; the process begins with its first item."""
        # Never forked: a lock that another thread holds would stay locked in the child for ever.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, initializer=_begin, initargs=self._arguments)

    def submit(self, worker: ProcessPoolExecutor, item: Any) -> Future[Result]:
        """See `Pool.submit`."""
        try:
            return worker.submit(_call, item)
        except BrokenProcessPool as error:
            raise WorkerDied(_HOW) from error

    def wait(self, handles: Collection[Future[Result]]) -> Collection[Future[Result]]:
        """See `Pool.wait`."""
        return wait(handles, return_when=FIRST_COMPLETED).done

    def result(self, worker: ProcessPoolExecutor, handle: Future[Result]) -> Result:
        """See `Pool.result`."""
        try:
            return handle.result()
        except BrokenProcessPool as error:
            raise WorkerDied(_HOW) from error

    def stop(self, worker: ProcessPoolExecutor) -> None:
        """See `Pool.stop`."""
        worker.shutdown(wait=True, cancel_futures=True)


def _begin(make: Make[Any, Any], setup: Any) -> None:
    """What a worker does first; the setup itself is made with the first item, where it may fail aloud."""
    global _PENDING
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_coordinator, daemon=True).start()
    _PENDING = make, setup


def _end_with_the_coordinator() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: Any) -> Any:
    global _WORK
    if _WORK is None:
        if _PENDING is None:
            raise RuntimeError("a worker was asked before it began")
        make, setup = _PENDING
        _WORK = make(setup)
    return _WORK(item)
