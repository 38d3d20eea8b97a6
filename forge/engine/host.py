"""A session hosted by this process: the `forge-train` thread, and the threads that serve it.

The training thread outlives the screen. Nothing here imports torch before that thread runs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from forge.config import read_frozen
from forge.engine.control import CommandDesk, Control
from forge.engine.journal import Journal
from forge.engine.lease import Lease
from forge.engine.sampler import Sampler
from forge.engine.telemetry import Recorder, Telemetry
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import MetricsWriter, Registry, SessionRow, State, edits


class HostedRun:
    """One run of a session in a thread of this process, which holds its lease."""

    def __init__(self, home: Home, registry: Registry, session: SessionRow) -> None:
        self.session = session
        self._home = home
        self._registry = registry
        self._paths = home.session(session.id)
        self._lease = Lease.acquire(self._paths.lease, session.name)
        self._control = Control()
        self.outcome: State | None = None
        self.failure: Exception | None = None
        """What ended the run, where it failed; its message is in the session's row."""
        self._thread = threading.Thread(target=self._run, name="forge-train", daemon=False)

    def start(self, on_end: Callable[[], None] = lambda: None) -> None:
        """Record the lease and start training."""
        info, now = self._lease.info, time.time()
        try:
            self._registry.write(lambda c: edits.take_lease(c, self.session.id, info.token, info.owner, now))
        except BaseException:
            self._lease.release()
            raise
        self._on_end = on_end
        self._thread.start()

    def abandon(self) -> None:
        """Give the lease back without having started."""
        self._lease.release()

    @property
    def alive(self) -> bool:
        """Whether the training thread still runs."""
        return self._thread.is_alive()

    def stop(self, reason: str) -> None:
        """Ask for a checkpoint and an end at the next step."""
        self._control.request_stop(reason)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; returns whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        telemetry = Telemetry()
        journal = Journal(self._registry, self.session.id, self._paths)
        desk = CommandDesk(self._registry, self.session.id, self._lease.info.token, self._control)
        recorder = Recorder(telemetry, lambda: MetricsWriter(self._paths.metrics), desk.poll)
        sampler = Sampler(telemetry)
        recorder.start()
        sampler.start()
        try:
            self.outcome = self._train(telemetry, recorder, desk, journal, sampler)
        except Exception as error:  # noqa: BLE001 - whatever it was, the session must end in a state that says so
            self.failure = error
            self._record_failure(journal, str(error))
        finally:
            sampler.close()
            recorder.close()
            token = self._lease.info.token
            with contextlib.suppress(ForgeError):
                self._registry.write(lambda c: edits.drop_lease(c, self.session.id, token))
            self._lease.release()
            self._on_end()

    def _train(
        self, telemetry: Telemetry, recorder: Recorder, desk: CommandDesk, journal: Journal, sampler: Sampler
    ) -> State:
        from forge.engine.context import RunScope
        from forge.engine.device import prepare
        from forge.engine.runner import Runner

        config = read_frozen(self._paths.config)
        place = prepare(config.runtime)
        sampler.watch(place.device, config.runtime.vram_budget_gb)
        scope = RunScope(
            session_id=self.session.id,
            config=config,
            paths=self._paths,
            cache=self._home.cache,
            registry=self._registry,
            place=place,
            telemetry=telemetry,
            recorder=recorder,
            control=self._control,
            desk=desk,
            journal=journal,
        )
        runner = Runner(scope, sampler)
        outcome = runner.run()
        self.failure = runner.failure
        return outcome

    def _record_failure(self, journal: Journal, reason: str) -> None:
        """A failure before the phases began, such as a device that is not there."""
        now = time.time()
        with contextlib.suppress(ForgeError):
            journal.event("error", reason, level="error")
            self._registry.write(
                lambda c: edits.set_session_state(c, self.session.id, State.FAILED, now=now, error=reason)
            )
        self.outcome = State.FAILED
