"""The engine's side of the phase contract: steps that survive, and a log that never blocks.

Between two steps, and only there, a run pauses, stops, checkpoints or changes; so every checkpoint stands
at a step boundary and a resumed run repeats nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge.config import PipelineConfig
from forge.contract import Stateful
from forge.engine import checkpoint as checkpoints
from forge.engine.control import CommandDesk, Control
from forge.engine.device import Place
from forge.engine.generators import SeededGenerators
from forge.engine.journal import Journal
from forge.engine.telemetry import Recorder, Telemetry, Throughput
from forge.errors import CheckpointError
from forge.home import SessionPaths
from forge.registry import CommandRow, Heartbeat, MetricsWriter, Registry, State, edits


class PhaseStopped(Exception):
    """Raised at a step boundary to leave a phase that was asked to stop; its checkpoint is on disk."""


@dataclass
class RunScope:
    """What all phases of one hosted run share."""

    session_id: str
    config: PipelineConfig
    paths: SessionPaths
    cache: Path
    registry: Registry
    place: Place
    telemetry: Telemetry
    recorder: Recorder
    control: Control
    desk: CommandDesk
    journal: Journal


class EngineContext:
    """`PhaseContext` of one phase run."""

    def __init__(self, scope: RunScope, phase: str, position: int) -> None:
        self._scope = scope
        self._phase = phase
        self._folder = scope.paths.checkpoints(phase)
        self._throughput = Throughput()
        self._tokens = 0
        self._total = 0
        self._step = 0
        self._saved_step = -1
        self.session_id = scope.session_id
        self.config = scope.config
        self.device = scope.place.device
        self.precision = scope.place.precision
        self.compile = scope.place.compile
        self.cache = scope.cache
        self.rng = SeededGenerators(scope.config.seed, position)

    # --- what a phase calls ---------------------------------------------------------------------------

    def log(self, step: int, /, **metrics: float) -> None:
        """See `PhaseContext.log`."""
        self._scope.telemetry.log(self._phase, step, metrics)

    def event(self, kind: str, message: str, *, step: int | None = None, level: str = "info") -> None:
        """See `PhaseContext.event`."""
        at = self._step if step is None else step
        self._scope.journal.event(kind, message, phase=self._phase, step=at, level=level)

    def warn(self, kind: str, message: str) -> None:
        """See `PhaseContext.warn`."""
        self.event(kind, message, level="warning")

    def status(self, message: str) -> None:
        """See `PhaseContext.status`."""
        self._beat(message)
        if self._scope.control.stop_reason is not None and self._total == 0:
            raise PhaseStopped(self._scope.control.stop_reason)

    def steps(self, total: int, state: Stateful, *, tokens: int = 0) -> Iterator[int]:
        """See `PhaseContext.steps`."""
        self._total, self._tokens = total, tokens
        self._step = self._restore(state)
        self._set_phase(State.RUNNING)
        every = self._scope.config.runtime.checkpoint_every
        for step in range(self._step, total):
            if self._scope.control.pending:
                self._obey(state)
            self._throughput.begin()
            yield step
            self._throughput.end()
            self._step = step + 1
            self._beat("")
            if self._step % every == 0 or self._step == total:
                self._save(state)
        if self._scope.control.pending:
            self._obey(state)

    # --- restoring and saving -------------------------------------------------------------------------

    def _restore(self, state: Stateful) -> int:
        checkpoints.remove_leftovers(self._folder)
        found = checkpoints.load_latest(self._folder, self._report_damaged)
        last_steps = found.last_steps if found else {}
        deleted = self._scope.recorder.call(lambda writer: writer.rewind(self._phase, last_steps))
        if found is None:
            return 0
        state.load_state_dict(found.state["state"])
        self.rng.load_state_dict(found.state["generators"])
        self._check_exactness(found.state["runtime"])
        self._saved_step = found.step
        self.event("resume", f"resumed at step {found.step}; {deleted} later points dropped", step=found.step)
        return found.step

    def _report_damaged(self, step: int, reason: str) -> None:
        self.event(
            "damaged",
            f"checkpoint of step {step} is damaged and was skipped: {reason}",
            step=step,
            level="warning",
        )
        session = self.session_id
        self._scope.registry.write(lambda c: edits.forget_checkpoint(c, session, self._phase, step))

    def _check_exactness(self, before: dict[str, Any]) -> None:
        now = self._scope.place.fingerprint()
        moved = [f"{key} {before.get(key)} → {now[key]}" for key in now if before.get(key) != now[key]]
        if moved:
            self.event("inexact", "exact resume is off: " + ", ".join(moved), level="warning")

    def _save(self, state: Stateful) -> None:
        if self._saved_step == self._step:
            return
        began = time.monotonic()
        self._require_room()
        last_steps = self._scope.recorder.call(self._make_log_durable)
        contents = {
            "state": state.state_dict(),
            "generators": self.rng.state_dict(),
            "runtime": self._scope.place.fingerprint(),
        }
        saved = checkpoints.save(self._folder, self._step, contents, last_steps)
        seconds = time.monotonic() - began
        self._saved_step = self._step
        path = str(saved.path.relative_to(self._scope.paths.root))
        now = time.time()
        gone = checkpoints.rotate(self._folder, self._scope.config.runtime.keep_checkpoints)

        def record(c: Any) -> None:
            edits.add_checkpoint(
                c, self.session_id, phase=self._phase, step=saved.step, path=path, bytes=saved.bytes,
                seconds=seconds, now=now,
            )  # fmt: skip
            for step in gone:
                edits.forget_checkpoint(c, self.session_id, self._phase, step)
            edits.set_phase_state(c, self.session_id, self._phase, State.RUNNING, now=now, step=saved.step)

        self._scope.registry.write(record)
        size = f"{saved.bytes / 1e6:.1f} MB, {seconds * 1000:.0f} ms stall"
        self.event("checkpoint", f"checkpoint step {saved.step} ({size})", step=saved.step)

    def _make_log_durable(self, writer: MetricsWriter) -> dict[str, int]:
        writer.commit_durably()
        return writer.last_steps(self._phase)

    def _require_room(self) -> None:
        newest = checkpoints.steps_in(self._folder)
        if not newest:
            return
        folder = checkpoints.step_folder(self._folder, newest[0])
        size = sum(entry.stat().st_size for entry in folder.iterdir())
        free = shutil.disk_usage(self._folder).free
        if free < 2 * size:
            raise CheckpointError(
                f"{self._folder} has {free / 1e6:.0f} MB free, two checkpoints need {2 * size / 1e6:.0f} MB. "
                f'Free some space, then "forge resume"; the checkpoint of step {newest[0]} is safe.'
            )

    # --- commands -------------------------------------------------------------------------------------

    def _obey(self, state: Stateful) -> None:
        """Carry out what waits; a pause lasts until resume or stop."""
        control = self._scope.control
        paused: CommandRow | None = None
        while True:
            for command in control.take():
                if command.kind == "checkpoint":
                    self._save(state)
                    self._answer(command, f"checkpoint at step {self._step}")
                elif command.kind == "stop":
                    self._save(state)
                    self._answer(command, f"stopped at step {self._step}")
                    raise PhaseStopped(f"stopped by {command.requested_by}")
                elif command.kind == "pause" and paused is None:
                    paused = command
                    self._set_session(State.PAUSED)
                    self._answer(command, f"paused before step {self._step + 1}")
                    self.event("pause", f"paused by {command.requested_by}")
                elif command.kind == "resume" and paused is not None:
                    paused = None
                    self._set_session(State.RUNNING)
                    self._answer(command, f"went on at step {self._step + 1}")
                    self.event("continue", f"continued by {command.requested_by}")
                else:
                    word = "paused" if paused else "running"
                    self._scope.desk.answer(command, done=False, text=f"the run is already {word}")
            if control.stop_reason is not None:
                self._save(state)
                raise PhaseStopped(control.stop_reason)
            if paused is None:
                return
            control.wait(1.0)

    def _answer(self, command: CommandRow, text: str) -> None:
        self._scope.desk.answer(command, done=True, text=text)

    # --- what others see ------------------------------------------------------------------------------

    def _set_session(self, state: State) -> None:
        now = time.time()

        def change(c: Any) -> None:
            edits.set_session_state(c, self.session_id, state, now=now)
            edits.set_phase_state(c, self.session_id, self._phase, state, now=now, step=self._step)

        self._scope.registry.write(change)

    def _set_phase(self, state: State) -> None:
        now = time.time()
        self._scope.registry.write(
            lambda c: edits.set_phase_state(
                c, self.session_id, self._phase, state, now=now, step=self._step, total_steps=self._total
            )
        )

    def _beat(self, status: str) -> None:
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
            status=status,
            coalesced=self._scope.telemetry.coalesced,
        )
