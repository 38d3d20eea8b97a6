"""Workers as actors of Ray, on this machine or on the cluster that `RAY_ADDRESS` names.

Thin: Ray places the actors and moves the setup; what the items are is none of its business. Every node has
to see the same files under the same paths.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Generic

from forge.errors import ConfigError
from forge.executor import Make, Result, Setup
from forge.executor.slots import WorkerDied


class Rayed(Generic[Setup, Result]):
    """See `Pool`."""

    def __init__(self, make: Make[Setup, Result], setup: Setup, workers: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "evomerge.executor: ray is not installed. Install it: pip install 'forge-tui[ray]'; or take "
                "executor: processes."
            ) from error
        self._ray = ray
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        self._actor = ray.remote(num_cpus=1, max_restarts=0)(_Actor)
        self._make, self._setup = make, ray.put(setup)

    def start(self) -> Any:
        """See `Pool.start`."""
        return self._actor.remote(self._make, self._setup)

    def submit(self, worker: Any, item: Any) -> Any:
        """See `Pool.submit`."""
        return worker.call.remote(item)

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """See `Pool.wait`."""
        done: Collection[Any] = self._ray.wait(list(handles), num_returns=1)[0]
        return done

    def result(self, worker: Any, handle: Any) -> Result:
        """See `Pool.result`."""
        try:
            result: Result = self._ray.get(handle)
        except self._ray.exceptions.RayActorError as error:
            raise WorkerDied("Ray says that the actor died; its log says why") from error
        except self._ray.exceptions.RayTaskError as error:
            # What the work raised, and not Ray's wrapping of it.
            raise error.cause from None
        return result

    def stop(self, worker: Any) -> None:
        """See `Pool.stop`."""
        self._ray.kill(worker)


class _Actor:
    def __init__(self, make: Make[Any, Any], setup: Any) -> None:
        self._make, self._setup = make, setup
        self._work: Any = None

    def call(self, item: Any) -> Any:
        """The result of one item."""
        if self._work is None:
            self._work = self._make(self._setup)
        return self._work(item)
