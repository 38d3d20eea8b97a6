"""A session hosted by this process: the `forge-train` thread, and the threads that serve it.

The training thread outlives the screen. Nothing here imports torch before that thread runs. However a run
ends, its lease is given back, and the session says how it ended or is found to be interrupted.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from forge.config import PipelineConfig, read_frozen
from forge.engine import checkpoint
from forge.engine.aftercare import Aftercare
from forge.engine.control import CommandDesk, Control
from forge.engine.journal import Journal
from forge.engine.kernel import Kernel
from forge.engine.lease import Lease
from forge.engine.outbox import Outbox
from forge.engine.sampler import Sampler
from forge.engine.telemetry import Recorder, Telemetry
from forge.engine.wal import WalWatch
from forge.errors import ForgeError, IllegalTransitionError, SessionLeasedError
from forge.home import Home, SessionPaths
from forge.registry import (
    LIVE,
    Connection,
    MetricsWriter,
    Registry,
    SessionRow,
    State,
    edits,
    fetch,
    queries,
)

SETTLE_SECONDS, LEAVE_SECONDS = 75.0, 2.0
"""How long a process waits at its end for cleaning up and for a person's command, and after a stop."""

NOTE_SECONDS = 60.0
"""How old the count of out-of-memory kills in the lease may be: an older kill was somebody else's."""

LEASE_SECONDS = 2.0
"""How often the lease is looked at, which somebody may have removed; a stat a look."""
_LOST = (
    "{name} has another owner by now, because somebody removed its lease file: this process ({owner}) ends "
    "and saves nothing more."
)


class HostedRun:
    """One run of a session in a thread of this process, which holds its lease."""

    def __init__(self, home: Home, registry: Registry, session: SessionRow) -> None:
        """Take the lease.

        Raises:
            SessionLeasedError: somebody else runs the session.
            ForgeError: its folder is gone.
        """
        self.session = session
        self._home = home
        self._registry = registry
        self._paths = home.session(session.id)
        self._lease = Lease.acquire(self._paths.lease, session.name)
        self._kernel, self._noted, self._looked = Kernel(), time.monotonic(), time.monotonic()
        self._unsure = False
        """The lease file was put back, and the registry not asked yet whose the session is."""
        self._control = Control()
        self._outbox = Outbox(registry)
        self._journal = Journal(self._outbox, session.id, self._paths)
        self._desk = CommandDesk(registry, self._outbox, session.id, self._lease.info.token, self._control)
        self._wal = WalWatch(
            (self._paths.metrics, registry.path),
            lambda message, level: self._journal.event("wal", message, level=level),
        )
        self._care = Aftercare(home, registry, session, self._journal)
        self._on_end: Callable[[], None] = lambda: None
        self.outcome: State | None = None
        """The state it ended in; none while it runs."""
        self.failure: Exception | None = None
        """What ended the run, where it failed; its message is in the session's row."""
        self._thread = threading.Thread(target=self._run, name="forge-train", daemon=False)

    def start(self, on_end: Callable[[], None] = lambda: None) -> None:
        """Record the lease and start training; `on_end` is called last of all, on the training thread."""
        info, now = self._lease.info, time.time()
        self._registry.write(lambda c: edits.take_lease(c, self.session.id, info.token, info.owner, now))
        self._on_end = on_end
        try:
            self._thread.start()
        except RuntimeError:
            self._registry.write(lambda c: edits.drop_lease(c, self.session.id, info.token))
            raise
        self._care.begun()

    def abandon(self) -> None:
        """Give the lease back without having started."""
        self._lease.release()

    @property
    def alive(self) -> bool:
        """Whether the training thread still runs."""
        return self._thread.is_alive()

    @property
    def exit_code(self) -> int | None:
        """What a program that does nothing else ends with; none while it runs."""
        if self.outcome is None:
            return None
        if self.outcome in (State.COMPLETED, State.STOPPED):
            return 0
        return self.failure.exit_code if isinstance(self.failure, ForgeError) else 1

    def stop(self, reason: str) -> None:
        """Ask for a checkpoint and an end at the next step."""
        self._control.request_stop(reason)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; returns whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def settle(self) -> bool:
        """Wait, within bounds, for what goes with a run that has ended; whether all of it is done."""
        # Who stopped it wants to leave.
        return self._care.wait(LEAVE_SECONDS if self.outcome is State.STOPPED else SETTLE_SECONDS)

    def _run(self) -> None:
        # What stays when something ends this thread that is no Exception: nobody said how it ended.
        outcome = State.INTERRUPTED
        try:
            try:
                with contextlib.ExitStack() as helpers:
                    outcome = self._train(helpers)
                self._end(outcome)
                if self._control.lost is not None:
                    self.failure, outcome = SessionLeasedError(self._control.lost), State.INTERRUPTED
            except Exception as error:  # noqa: BLE001 - whatever it was, the session must say that it failed
                self.failure, outcome = error, State.FAILED
                self._end(outcome, self._journal.failure(error))
        finally:
            self._leave()
            self.outcome = outcome
            self._care.ended(outcome, str(self.failure or outcome))
            self._on_end()

    def _train(self, helpers: contextlib.ExitStack) -> State:
        telemetry = Telemetry()
        recorder = Recorder(
            telemetry, lambda: MetricsWriter(self._paths.metrics), self._serve, self._journal.event
        )
        helpers.callback(recorder.close)
        recorder.start()
        sampler = Sampler(telemetry)
        helpers.callback(sampler.close)
        sampler.start()
        config = read_frozen(self._paths.config)

        from forge.engine.device import prepare
        from forge.engine.runner import Runner
        from forge.engine.scope import RunScope

        place = prepare(config.runtime, resumed_threads(self._paths, config))
        sampler.watch(place.device, config.runtime.vram_budget_gb)
        scope = RunScope(
            session_id=self.session.id,
            config=config,
            paths=self._paths,
            cache=self._home.cache,
            registry=self._registry,
            outbox=self._outbox,
            place=place,
            telemetry=telemetry,
            recorder=recorder,
            sampler=sampler,
            control=self._control,
            desk=self._desk,
            journal=self._journal,
            care=self._care,
        )
        return Runner(scope).run()

    def _serve(self) -> None:
        """What the recorder looks after: the backlog, requests, logs that grow, and signs for an autopsy."""
        if self._outbox.waiting:
            self._outbox.flush()
        self._desk.poll()
        self._wal.check()
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            self._noted = time.monotonic()
            self._lease.note_kills(self._kernel)
        if time.monotonic() - self._looked >= LEASE_SECONDS:
            self._looked = time.monotonic()
            self.keep_lease()

    def keep_lease(self) -> None:
        """Put a lease file back that somebody removed; a session that another has taken is left to it.

        Raises:
            OSError: its folder is gone, or its disk refuses; the next look tries again.
            RegistryError: the registry does not answer; the next look tries again.
        """
        if self._control.lost is not None:
            return
        there = self._lease.stands(self._paths.lease)
        mine = there or self._lease.renew(self._paths.lease)
        if mine and not there:
            self._unsure = True
        if mine and not self._unsure:
            return
        # Asked after the file is locked: whoever took the session did that before it wrote its own token.
        row = self._registry.one(queries.session(self.session.id))
        if not mine or row is None or row.lease != self._lease.info.token:
            lost = _LOST.format(name=self.session.name, owner=self._lease.info.owner)
            self._journal.event("lease", lost, level="error")
            self._control.lose(lost)
            return
        self._unsure = False
        self._journal.event(
            "lease", "somebody removed the lease file of this live session; it was put back", level="warning"
        )

    def _end(self, state: State, error: str | None = None) -> None:
        """Bring the session and its live phase to the state they ended in."""
        if self._control.lost is not None:
            return  # another owner says how it stands
        session_id, now = self.session.id, time.time()

        def change(c: Connection) -> None:
            for run in fetch(c, queries.phase_runs(session_id)):
                if run.state in LIVE:
                    edits.set_phase_state(c, session_id, run.phase, state, now=now)
            edits.set_session_state(c, session_id, state, now=now, error=error)

        try:
            self._outbox.post(change)
        except IllegalTransitionError as error:
            # Somebody took it for dead, such as after its folder was moved away, and said so already.
            self._journal.line("state", str(error), level="error")

    def _leave(self) -> None:
        """Answer who still waits, and give the lease back whatever happens."""
        token = self._lease.info.token
        try:
            self._desk.refuse_rest("the run ended first")
            self._outbox.write(lambda c: edits.drop_lease(c, self.session.id, token))
        except ForgeError as error:
            # The registry does not answer. The lock goes with the lease, so the next look finds an owner
            # that is gone, and calls the session interrupted.
            self._journal.line("registry", f"how the run ended could not be recorded: {error}", level="error")
        finally:
            self._lease.release()


def resumed_threads(paths: SessionPaths, config: PipelineConfig) -> int | None:
    """The thread count that this session computes with, once it has a checkpoint; a sum depends on it."""
    for phase in reversed(config.phases):
        runtime = checkpoint.newest_runtime(paths.checkpoints(phase))
        if runtime is not None and "threads" in runtime:
            return int(runtime["threads"])
    return None
