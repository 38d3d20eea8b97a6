"""The engine's side of the phase contract: steps that survive, and a log that never blocks.

Between two steps, and only there, a run pauses, stops, checkpoints or changes; so every checkpoint stands
at a step boundary and a resumed run repeats nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from forge.contract import Population, Stateful
from forge.engine.checkpoint import Checkpoint
from forge.engine.generators import SeededGenerators
from forge.engine.keeper import CannotSaveError, Keeper
from forge.engine.pace import Stopwatch, Throughput
from forge.engine.population import RegistryPopulation
from forge.engine.recovery import Recovery
from forge.engine.scope import RunScope
from forge.engine.store import verified_folder
from forge.registry import CommandRow, Connection, Heartbeat, PhaseRunRow, State, edits

BEAT_SECONDS = 1.0
"""How often a paused run says that it lives."""
RETRY_SECONDS = 10.0
"""How long a checkpoint that the disk refused waits for the next try."""


class PhaseStopped(BaseException):
    """Raised at a step boundary to leave a phase that was asked to stop.

    No `Exception`, so that a phase which guards a step with `except Exception` cannot hold up a stop.
    """


class EngineContext:
    """`PhaseContext` of one phase run."""

    def __init__(
        self, scope: RunScope, run: PhaseRunRow, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scope = scope
        self._phase = run.phase
        self._clock = clock
        self._keeper = Keeper(scope, run.phase, self._tell)
        self._throughput = Throughput(clock=clock)
        self._stopwatch = Stopwatch(clock)
        self._recovery: Recovery | None = None
        """None until the steps begin."""
        self._inside = False
        """A step is being computed: no boundary."""
        self._paused = False
        self._held: str | None = None
        """Why a checkpoint could not be written; the run stands still until it can."""
        self._retry = False
        """A person asked for another try."""
        self._status = ""
        self._tokens = 0
        self._step, self._total = run.step, run.total_steps
        self.session_id = scope.session_id
        self.config = scope.config
        self.device = scope.place.device
        self.precision = scope.place.precision
        self.compile = scope.place.compile
        self.cache = scope.cache
        self.rng = SeededGenerators(scope.config.seed, run.position)
        self.population: Population = RegistryPopulation(
            scope.registry, scope.outbox, scope.session_id, run.phase
        )

    # --- what a phase calls ---------------------------------------------------------------------------

    def log(self, step: int, /, **metrics: float) -> None:
        """See `PhaseContext.log`."""
        # Converted here: what is no number fails in the line of the phase that logged it.
        values = {name: float(value) for name, value in metrics.items()}
        self._scope.telemetry.log(self._phase, int(step), values)

    def event(self, kind: str, message: str, *, step: int | None = None, level: str = "info") -> None:
        """See `PhaseContext.event`. A flood of one kind is told in part; the session's log has it all."""
        missed = 0 if level == "error" else self._scope.flood.admit(kind)
        at = self._step if step is None else step
        if missed is None:
            self._scope.journal.line(kind, message, phase=self._phase, step=at, level=level)
            return
        more = f" ({missed} more like it before, all in the session's log)" if missed else ""
        self._tell(kind, message + more, step=at, level=level)

    def model_folder(self, model_id: str) -> Path:
        """See `PhaseContext.model_folder`."""
        return verified_folder(self._scope.paths, model_id)

    def warn(self, kind: str, message: str) -> None:
        """See `PhaseContext.warn`."""
        self.event(kind, message, level="warning")

    def status(self, message: str) -> None:
        """See `PhaseContext.status`; like `poll`, this is a boundary."""
        self._status = message
        self.poll()

    def poll(self) -> None:
        """See `PhaseContext.poll`."""
        self._beat()
        if not self._inside and self._scope.control.pending:
            self._obey()

    def steps(
        self, total: int, state: Stateful, *, tokens: int = 0, evaluate: Callable[[int], None] | None = None
    ) -> Iterator[int]:
        """See `PhaseContext.steps`.

        Raises:
            PhaseStopped: the run was asked to stop; its checkpoint is on disk, where the disk takes it.
            CheckpointError: a checkpoint can be neither read nor kept.
            TrainingError: it diverged too often.
        """
        if self._recovery is not None:
            raise RuntimeError(f"{self._phase}: ctx.steps can be used once in a phase run")
        self._total, self._tokens, self._status = total, tokens, ""
        recovery = self._restore(state)
        self._show(State.RUNNING)
        every = self._scope.config.runtime.checkpoint_every
        self._evaluate(recovery, evaluate)
        while self._step < total:
            if self._scope.control.pending:
                self._obey()
            self._throughput.begin()
            self._inside = True
            try:
                yield self._step
            finally:
                self._inside = False
            self._step, self._status = self._step + 1, ""
            self._beat()
            recovery.stepped(due=self._step % every == 0 or self._step == total)
            if recovery.lost:
                self._go_back(recovery)
            self._evaluate(recovery, evaluate)
            if recovery.due and (not recovery.failing or self._step == total):
                # Weights that give no finite loss are nothing to go back to: that one waits for better ones.
                self._save()
            self._throughput.end()
        if self._scope.control.pending:
            self._obey()

    def _evaluate(self, recovery: Recovery, evaluate: Callable[[int], None] | None) -> None:
        """Measure the state of this step, where no attempt before has come to the end of that."""
        if recovery.unmeasured and evaluate is not None:
            evaluate(self._step)
        recovery.unmeasured = False

    # --- what the runner asks -------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps done."""
        return self._step

    @property
    def seconds(self) -> float:
        """Time worked on this phase over all attempts, pauses left out."""
        return self._stopwatch.seconds

    def close(self) -> None:
        """Tell what was held back of a flood of events."""
        for kind, count in self._scope.flood.take_held().items():
            self._tell(kind, f"{count} more events of this kind are in the session's log", level="warning")

    # --- restoring and saving -------------------------------------------------------------------------

    def _restore(self, state: Stateful) -> Recovery:
        training = getattr(self._scope.config, self._phase)
        recovery = Recovery(self._phase, state, self.rng, training)
        found = self._keeper.restore()
        recovery.begin(found)
        self._step = 0
        if found is not None:
            self._stopwatch.add(found.meta.seconds)
            self._step = found.step
        self._recovery = recovery
        return recovery

    def _go_back(self, recovery: Recovery) -> None:
        """After a divergence: take up the last checkpoint again, or the start, and learn more slowly."""
        at = self._step
        recovery.require_another(at)
        found = self._last_scheduled()
        recovery.go_back(found)
        self._step = 0 if found is None else found.step
        where = "the start" if found is None else f"the checkpoint of step {self._step}"
        training = getattr(self._scope.config, self._phase)
        text = (
            f"diverged: {training.max_skipped} updates in a row skipped up to step {at}; back to {where} "
            f"with {recovery.rate:g} of the learning rate "
            f"({recovery.times} of at most {training.max_rollbacks} times)"
        )
        self._tell("diverged", text, step=at, level="warning")
        self._beat()
        self._show(State.RUNNING)

    def _last_scheduled(self) -> Checkpoint | None:
        """Stands still as long as the disk does not let the run go back."""
        while True:
            try:
                found = self._keeper.go_back()
            except CannotSaveError as error:
                self._hold(f"cannot go back from step {self._step}", str(error))
            else:
                self._end_hold("the run could go back")
                return found

    def _try_save(self) -> str | None:
        """Make sure that the present step has a checkpoint; why that cannot be, else none."""
        self._leave_if_lost()
        if self._recovery is None or self._keeper.saved_step == self._step:
            return None
        try:
            contents, scheduled = self._recovery.contents(), self._recovery.scheduled
            self._keeper.save(self._step, contents, self.seconds, scheduled=scheduled)
        except CannotSaveError as error:
            return str(error)
        self._recovery.saved()
        return None

    def _save(self) -> None:
        """Write the checkpoint that is due; stands still as long as the disk does not take it."""
        while (problem := self._try_save()) is not None:
            self._hold(f"no checkpoint at step {self._step}", problem)
        self._end_hold(f"the checkpoint of step {self._step} is written")

    def _end_hold(self, text: str) -> None:
        if self._held is not None:
            self._held, self._status = None, ""
            self._tell("continue", text)
            self._go_on()
            # Somebody may have asked for a pause of their own meanwhile.
            self._obey()

    def _hold(self, what: str, problem: str) -> None:
        """Stand still until it is time for another try."""
        if self._held is None:
            self._scope.care.paused(f"{what}: {problem}")
        if self._held is None or self._retry:
            again = f"tried again every {RETRY_SECONDS:.0f} seconds, and at once when resumed"
            self._tell("disk", f"{what}: {problem}. Paused; {again}", level="warning")
        self._held, self._status, self._retry = problem, problem, False
        self._stand_still()
        until = self._clock() + RETRY_SECONDS
        while not self._retry and self._clock() < until and self._keeper.saved_step != self._step:
            self._wait()
            self._take_requests()

    # --- requests -------------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Carry out what waits; a pause lasts until resume or stop."""
        self._take_requests()
        while self._paused:
            self._wait()
            self._take_requests()

    def _wait(self) -> None:
        self._beat()
        self._scope.control.wait(BEAT_SECONDS)

    def _take_requests(self) -> None:
        control = self._scope.control
        self._leave_if_lost()
        while (command := control.take()) is not None:
            self._carry_out(command)
        if control.stop_reason is not None:
            self._try_save()
            raise PhaseStopped(f"{control.stop_reason}, {self._where()}")

    def _leave_if_lost(self) -> None:
        # What is on disk may be another owner's by now.
        if self._scope.control.lost is not None:
            raise PhaseStopped(self._scope.control.lost)

    def _carry_out(self, command: CommandRow) -> None:
        match command.kind:
            case "checkpoint":
                self._checkpoint(command)
            case "stop":
                self._try_save()
                self._answer(command, f"stopped, {self._where()}")
                raise PhaseStopped(f"stopped by {command.requested_by}, {self._where()}")
            case "pause" if not self._paused:
                self._paused = True
                self._stand_still()
                self._answer(command, f"paused before step {self._step + 1}")
                self._tell("pause", f"paused by {command.requested_by}")
            case "resume" if self._held is not None:
                self._paused, self._retry = False, True
                self._answer(command, f"tries again to save the checkpoint of step {self._step}")
            case "resume" if self._paused:
                self._paused = False
                self._go_on()
                self._answer(command, f"went on at step {self._step + 1}")
                self._tell("continue", f"continued by {command.requested_by}")
            case _:
                word = "paused" if command.kind == "pause" else "running"
                self._scope.desk.answer(command, done=False, text=f"the run is already {word}")

    def _checkpoint(self, command: CommandRow) -> None:
        if self._recovery is None:
            text = "nothing to save: no step was taken since the run began"
            self._scope.desk.answer(command, done=False, text=text)
            return
        there = self._keeper.saved_step == self._step
        problem = self._try_save()
        if problem is not None:
            self._scope.desk.answer(command, done=False, text=f"no checkpoint: {problem}")
            return
        was = " was there already" if there else ""
        self._answer(command, f"the checkpoint of step {self._step}{was}")

    def _where(self) -> str:
        """Where a run that stops now can go on from."""
        if self._recovery is None:
            return "before its next step"
        if self._keeper.saved_step == self._step:
            return f"with a checkpoint at step {self._step}"
        newest = self._keeper.saved_step
        left = f"the newest is of step {newest}" if newest >= 0 else "there is none"
        return f"without a checkpoint at step {self._step}, which the disk refused; {left}"

    def _answer(self, command: CommandRow, text: str) -> None:
        self._scope.desk.answer(command, done=True, text=text)

    def _stand_still(self) -> None:
        self._stopwatch.stop()
        self._throughput.drop()
        self._show(State.PAUSED)

    def _go_on(self) -> None:
        if not self._paused and self._held is None:
            self._stopwatch.start()
            self._show(State.RUNNING)

    # --- what others see ------------------------------------------------------------------------------

    def _show(self, state: State) -> None:
        """Bring session and phase run to a state, where they are in another."""
        step = None if self._recovery is None else self._step
        now, total = time.time(), self._total

        def change(c: Connection) -> None:
            if edits.get_session(c, self.session_id).state is not state:
                edits.set_session_state(c, self.session_id, state, now=now)
            edits.set_phase_state(
                c, self.session_id, self._phase, state, now=now, step=step, total_steps=total
            )

        self._scope.outbox.post(change)

    def _tell(self, kind: str, message: str, *, step: int | None = None, level: str = "info") -> None:
        at = self._step if step is None else step
        self._scope.journal.event(kind, message, phase=self._phase, step=at, level=level)

    def _beat(self) -> None:
        speed = self._throughput.steps_per_second
        left = (self._total - self._step) / speed if speed else None
        self._scope.telemetry.heartbeat = Heartbeat.model_construct(
            at=time.time(),
            phase=self._phase,
            step=self._step,
            total_steps=self._total,
            steps_per_second=speed,
            tokens_per_second=speed * self._tokens,
            eta_seconds=left,
            status=self._status,
            coalesced=self._scope.telemetry.coalesced,
        )
