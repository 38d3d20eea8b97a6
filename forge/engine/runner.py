"""Runs a session: its phases in order, from wherever the registry says it stands.

Every model that a finished phase made is on disk before the registry calls the phase completed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from forge.contract import LoadedModel, Phase, PhaseResult
from forge.engine.context import EngineContext, PhaseStopped
from forge.engine.scope import RunScope
from forge.engine.store import ModelStore
from forge.errors import ForgeError, RegistryError
from forge.registry import Connection, Heartbeat, PhaseRunRow, State, edits, queries


class Runner:
    """One attempt at a session, on the thread that calls `run`."""

    def __init__(self, scope: RunScope) -> None:
        self._scope = scope
        self._store = ModelStore(scope.registry, scope.session_id, scope.paths)

    def run(self) -> State:
        """Run what is left of the session; returns the state to end it in, completed or stopped.

        Raises:
            Exception: whatever made a phase fail.
        """
        scope = self._scope
        self._begin()
        for done in self._store.put_right():
            scope.journal.line("adopted", done, level="warning")
        try:
            runs = self._phase_runs()
            for before, run in zip([None, *runs], runs, strict=False):
                if run.state is not State.COMPLETED:
                    self._run_phase(run, self._store.load(before.phase) if before else ())
        except PhaseStopped as stopped:
            if scope.control.lost is None:
                scope.journal.event("stop", str(stopped))
            return State.STOPPED
        scope.journal.event("completed", "all phases completed")
        return State.COMPLETED

    def _begin(self) -> None:
        scope, now = self._scope, time.time()
        # The heartbeat of the attempt before would say that this one has been silent ever since.
        scope.telemetry.heartbeat = Heartbeat(
            at=now, phase="", step=0, total_steps=0, steps_per_second=0.0, tokens_per_second=0.0,
            eta_seconds=None, status="starting", coalesced=0,
        )  # fmt: skip
        scope.recorder.call(lambda writer: None)
        scope.outbox.write(lambda c: edits.set_session_state(c, scope.session_id, State.RUNNING, now=now))

    def _phase_runs(self) -> list[PhaseRunRow]:
        """The latest run of each phase, in pipeline order."""
        rows = self._scope.registry.fetch(queries.phase_runs(self._scope.session_id))
        return list({row.phase: row for row in rows}.values())

    def _run_phase(self, run: PhaseRunRow, inputs: Sequence[LoadedModel]) -> None:
        scope, now = self._scope, time.time()
        phase = make_phase(run.phase, scope)
        total = phase.total_steps(inputs)

        def begin(c: Connection) -> PhaseRunRow:
            edits.enter_phase(c, scope.session_id, run.phase, now)
            return edits.set_phase_state(
                c, scope.session_id, run.phase, State.RUNNING, now=now, total_steps=total
            )

        begun = scope.outbox.write(begin)
        scope.journal.event("phase", f"{run.phase} begins", phase=run.phase)
        self._store.remove_orphans(run.phase)
        scope.sampler.reset_peak()
        context = EngineContext(scope, begun)
        try:
            context.status("starting")
            result = phase.run(context, inputs)
        except Exception as error:
            scope.journal.place = run.phase, context.step
            if (explained := scope.place.explain(error)) is not None:
                raise explained from error
            raise
        finally:
            context.close()
        report = {
            "rows": [],
            **result.report,
            "seconds": round(context.seconds, 3),
            "peak_memory_bytes": scope.sampler.peak_bytes,
        }
        self._finish_phase(run, result, report)

    def _finish_phase(self, run: PhaseRunRow, result: PhaseResult, report: dict[str, Any]) -> None:
        scope = self._scope
        if scope.control.lost is not None:
            raise PhaseStopped(scope.control.lost)
        rows = self._store.save_all(run.phase, result.models)
        now = time.time()

        def record(c: Connection) -> None:
            for row, parents in rows:
                edits.add_model(c, row, parents)
            edits.set_phase_state(c, scope.session_id, run.phase, State.COMPLETED, now=now, report=report)

        scope.outbox.write(record)
        scope.journal.event(
            "report", f"{run.phase} completed: {_one_line(report)}", phase=run.phase, report=report
        )
        self._clear_away(run.phase)

    def _clear_away(self, phase: str) -> None:
        """What killed attempts at a phase left was kept until here, as it might have been all there is."""
        try:
            self._store.put_right()
        except (OSError, RegistryError) as error:
            # The next look finds it again, and the models that count are safe.
            text = f"what earlier attempts at {phase} left could not be cleared away: {error}"
            self._scope.journal.event("tidy", text, phase=phase, level="warning")


def make_phase(name: str, scope: RunScope) -> Phase:
    """The phase of a name, made from the session's configuration.

    Raises:
        ForgeError: this program has no such phase.
    """
    from forge.phases import PIPELINE

    if name not in PIPELINE:
        raise ForgeError(
            f"this Forge has no phase {name}; it has {', '.join(PIPELINE)}. Resume with the Forge that made "
            "the session."
        )
    return PIPELINE[name](scope.config)


def _one_line(report: Mapping[str, Any]) -> str:
    """The first figures of a report; what a phase left out of a row is left out here too."""
    rows = [
        (row.get("label", "").strip(), _figure(row.get("value")), row.get("unit", ""))
        for row in report["rows"][:4]
    ]
    return ", ".join(" ".join(word for word in row if word) for row in rows)


def _figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
