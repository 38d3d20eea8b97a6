"""Runs a session: its phases in order, from wherever the registry says it stands.

Whatever happens, the session ends in a state that says so, and every model that a finished phase made is
on disk before the registry calls the phase completed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ulid import ULID

from forge import durable
from forge.contract import LoadedModel, Phase, PhaseResult, ProducedModel
from forge.engine.context import EngineContext, PhaseStopped, RunScope
from forge.engine.sampler import Sampler
from forge.errors import ForgeError
from forge.registry import ModelRow, PhaseRunRow, State, edits, queries
from forge.registry.query import fetch

if TYPE_CHECKING:
    from torch import nn


class Runner:
    """One attempt at a session, on the thread that calls `run`."""

    def __init__(self, scope: RunScope, sampler: Sampler) -> None:
        self._scope = scope
        self._sampler = sampler
        self.failure: Exception | None = None
        """What ended the run, where it failed."""

    def run(self) -> State:
        """Run what is left of the session; returns the state it ended in."""
        scope = self._scope
        try:
            self._set_session(State.RUNNING)
            inputs: Sequence[LoadedModel] = ()
            for run in scope.registry.fetch(queries.phase_runs(scope.session_id)):
                phase = make_phase(run.phase, scope)
                if run.state is not State.COMPLETED:
                    self._run_phase(phase, run, inputs)
                inputs = self._load_models(run.phase)
        except PhaseStopped as stopped:
            scope.journal.event("stop", str(stopped))
            return self._end(State.STOPPED)
        except ForgeError as error:
            self.failure = error
            return self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - a phase's failure becomes the session's, with its traceback
            import traceback

            self.failure = error
            scope.journal.line("traceback", traceback.format_exc(), level="error")
            return self._fail(f"{type(error).__name__}: {error} (the traceback is in {scope.paths.log})")
        scope.journal.event("completed", "all phases completed")
        return self._end(State.COMPLETED)

    def _run_phase(self, phase: Phase, run: PhaseRunRow, inputs: Sequence[LoadedModel]) -> None:
        scope = self._scope
        now = time.time()

        def begin(c: Any) -> None:
            total = phase.total_steps(inputs)
            edits.set_phase_state(c, scope.session_id, run.phase, State.RUNNING, now=now, total_steps=total)
            edits.enter_phase(c, scope.session_id, run.phase, now)

        scope.registry.write(begin)
        scope.journal.event("phase", f"{run.phase} begins", phase=run.phase)
        self._remove_orphans()
        context = EngineContext(scope, run.phase, run.position)
        began = time.monotonic()
        result = phase.run(context, inputs)
        report = dict(result.report)
        report["seconds"] = round((run.report or {}).get("seconds", 0.0) + time.monotonic() - began, 3)
        report["peak_memory_bytes"] = self._peak_memory()
        self._finish_phase(run, result, report)

    def _finish_phase(self, run: PhaseRunRow, result: PhaseResult, report: dict[str, Any]) -> None:
        scope = self._scope
        rows = [(self._save_model(run.phase, model), model.parents) for model in result.models]
        now = time.time()

        def record(c: Any) -> None:
            for row, parents in rows:
                edits.add_model(c, row, parents)
            edits.set_phase_state(c, scope.session_id, run.phase, State.COMPLETED, now=now, report=report)

        scope.registry.write(record)
        scope.journal.event("report", f"{run.phase} completed: {_one_line(report)}", phase=run.phase)

    def _save_model(self, phase: str, produced: ProducedModel) -> ModelRow:
        import safetensors.torch

        scope = self._scope
        model_id = str(ULID())
        folder = scope.paths.model(model_id)
        temporary = folder.with_name(f"{model_id}.tmp")
        durable.make_folder(temporary)
        tensors = {name: t.detach().contiguous().cpu() for name, t in produced.module.state_dict().items()}
        card = {
            "id": model_id,
            "name": produced.name,
            "phase": phase,
            "session": scope.session_id,
            "model": produced.config.model_dump(mode="json"),
            "metrics": dict(produced.metrics),
            "parents": dict(produced.parents),
            **produced.card,
        }
        files = {
            "model.safetensors": safetensors.torch.save(tensors, metadata={"format": "pt"}),
            "config.json": json.dumps(produced.config.model_dump(mode="json"), indent=1).encode(),
            "tokenizer.json": produced.tokenizer.read_bytes(),
            "card.json": json.dumps(card, indent=1, default=str).encode(),
        }
        for name, data in files.items():
            durable.write_file(temporary / name, data)
        durable.sync_folder(temporary)
        durable.move(temporary, folder)
        return ModelRow(
            id=model_id,
            session_id=scope.session_id,
            phase=phase,
            name=produced.name,
            created_at=time.time(),
            parameters=sum(t.numel() for t in tensors.values()),
            bytes=sum(len(data) for data in files.values()),
            path=str(folder.relative_to(scope.paths.root)),
            metrics=dict(produced.metrics),
        )

    def _load_models(self, phase: str) -> list[LoadedModel]:
        scope = self._scope
        rows = scope.registry.fetch(queries.models(scope.session_id, 1000))
        return [self._load(row) for row in reversed(rows) if row.phase == phase]

    def _load(self, row: ModelRow) -> LoadedModel:
        folder = self._scope.paths.root / row.path
        module, config = load_model(folder)
        card = json.loads((folder / "card.json").read_bytes())
        return LoadedModel(row.id, module, config, folder / "tokenizer.json", card)

    def _remove_orphans(self) -> None:
        """Models of a phase that was killed before the registry knew them."""
        known = {row.id for row in self._scope.registry.fetch(queries.models(self._scope.session_id, 1000))}
        folder = self._scope.paths.root / "models"
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.name not in known:
                durable.remove_tree(entry)

    def _peak_memory(self) -> int:
        import torch

        if self._scope.place.device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self._scope.place.device))
        self._sampler.sample()
        return self._sampler.peak_rss

    # --- ends -----------------------------------------------------------------------------------------

    def _set_session(self, state: State, error: str | None = None) -> None:
        session, now = self._scope.session_id, time.time()
        self._scope.registry.write(lambda c: edits.set_session_state(c, session, state, now=now, error=error))

    def _end(self, state: State, error: str | None = None) -> State:
        scope, now = self._scope, time.time()

        def change(c: Any) -> None:
            for run in fetch(c, queries.phase_runs(scope.session_id)):
                if run.state in (State.RUNNING, State.PAUSED):
                    edits.set_phase_state(c, scope.session_id, run.phase, state, now=now)
            edits.set_session_state(c, scope.session_id, state, now=now, error=error)

        scope.registry.write(change)
        return state

    def _fail(self, reason: str) -> State:
        self._scope.journal.event("error", reason, level="error")
        return self._end(State.FAILED, reason)


def make_phase(name: str, scope: RunScope) -> Phase:
    """The phase of a name, made from the session's configuration."""
    from forge.phases import PIPELINE

    return PIPELINE[name](scope.config)


def load_model(folder: Any) -> tuple[nn.Module, Any]:
    """A saved decoder and its configuration, on the CPU."""
    import torch

    from forge.models.io import load_decoder

    model = load_decoder(folder, torch.device("cpu"))
    return model, model.config


def _one_line(report: dict[str, Any]) -> str:
    rows = report.get("rows", [])
    return ", ".join(f"{row['label']} {_figure(row['value'])} {row['unit']}".strip() for row in rows[:4])


def _figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
