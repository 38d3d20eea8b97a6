"""What the engine's tests share: a phase that only counts, and the parts of a run without its threads.

The counting phase draws from every generator that a phase may draw from, so that one draw more or less, or a
state that is not put back, changes every number after it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from forge.config import ModelConfig, PipelineConfig
from forge.contract import LoadedModel, PhaseContext, PhaseResult, ProducedModel
from forge.engine import Engine
from forge.engine.aftercare import Aftercare
from forge.engine.context import EngineContext
from forge.engine.control import CommandDesk, Control
from forge.engine.device import prepare
from forge.engine.journal import Journal
from forge.engine.outbox import Outbox
from forge.engine.sampler import Sampler
from forge.engine.scope import RunScope
from forge.engine.telemetry import Recorder, Telemetry
from forge.home import SessionPaths
from forge.models.decoder import Decoder
from forge.registry import (
    CommandRow,
    MetricsWriter,
    PhaseRunRow,
    SessionRow,
    State,
    edits,
    fetch,
    metrics,
    open_reader,
    queries,
)

PICO = ModelConfig(vocab_size=260, d_model=16, n_layers=1, n_heads=2, d_ff=16, max_seq_len=8)
STEPS = 12
LEASE = "01LEASE"


def counting_config(**runtime: Any) -> PipelineConfig:
    """Two phases of 12 steps, a checkpoint every 4."""
    training = {"steps": STEPS, "warmup_steps": 1}
    settings = {"device": "cpu", "threads": 1, "checkpoint_every": 4, "keep_checkpoints": 2, **runtime}
    return PipelineConfig.model_validate(
        {
            "name": "counting",
            "model": PICO.model_dump(),
            "data": {"seq_len": 8},
            "runtime": settings,
            "pretrain": training,
            "forging": {**training, "lambda_ramp_steps": 2},
        }
    )


@dataclass
class Sums:
    """A state whose every part depends on all draws before it."""

    total: float = 0.0
    vector: torch.Tensor = field(default_factory=lambda: torch.zeros(4))

    def add(self, ctx: PhaseContext) -> float:
        """Draw once from each generator; what was drawn."""
        draw = ctx.rng.python.random() + float(ctx.rng.numpy.random())
        noise = torch.randn(4, generator=ctx.rng.torch)
        self.vector = self.vector * 0.9 + noise
        self.total = self.total * 0.9 + draw
        return draw + float(noise.sum())

    def state_dict(self) -> dict[str, Any]:
        return {"model": {"vector": self.vector}, "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.vector, self.total = state["model"]["vector"].clone(), state["total"]


Hook = Callable[[PhaseContext, int], object]


def nothing(ctx: PhaseContext, step: int) -> None:
    """The default of `during`."""


@dataclass
class Counting:
    """A phase of `STEPS` steps; `during(ctx, step)` runs in each, `evaluating(ctx, done)` between them."""

    name: ClassVar[str] = "pretrain"
    during: Hook = nothing
    steps: int = STEPS
    sums: Sums = field(default_factory=Sums)
    inputs: Sequence[LoadedModel] = ()
    preparing: Callable[[PhaseContext], object] = lambda ctx: None
    measuring: Callable[[PhaseContext], object] = lambda ctx: None
    evaluating: Hook = nothing

    def total_steps(self, inputs: Sequence[LoadedModel]) -> int:
        return self.steps

    def run(self, ctx: PhaseContext, inputs: Sequence[LoadedModel]) -> PhaseResult:
        self.inputs, self.sums = inputs, Sums()
        self.preparing(ctx)
        # A draw before the steps, as of a seed for batches.
        ctx.rng.python.getrandbits(64)

        def evaluate(done: int) -> None:
            self.evaluating(ctx, done)

        for step in ctx.steps(self.steps, self.sums, tokens=10, evaluate=evaluate):
            ctx.log(step + 1, loss=self.sums.add(ctx), total=self.sums.total)
            self.during(ctx, step)
        ctx.status("measuring")
        self.measuring(ctx)
        model = Decoder(PICO).initialise(torch.Generator().manual_seed(1))
        with torch.no_grad():
            model.norm.weight[:4] = self.sums.vector
        tokenizer = ctx.cache / "tokenizer.json"
        tokenizer.write_text("{}")
        produced = ProducedModel("counted", model, PICO, tokenizer, {"total": self.sums.total})
        return PhaseResult([produced], {"title": "Counting", "rows": []})


class ScriptedControl(Control):
    """Waits by doing what the script says next, so that a pause takes no time and no other thread."""

    def __init__(self, *script: Callable[[], object]) -> None:
        super().__init__()
        self.script = list(script)
        self.waits = 0

    def wait(self, timeout: float) -> None:
        assert timeout <= 1.0, "a run that stands still says every second that it lives"
        self.waits += 1
        assert self.script, "the run waits, and nobody will ever come"
        self.script.pop(0)()


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """The parts of a hosted run on the test's own thread; each `attempt` is a process of its own."""

    def __init__(self, engine: Engine, session_id: str) -> None:
        self.engine, self.registry, self.session_id = engine, engine.registry, session_id
        self.paths: SessionPaths = engine.home.session(session_id)
        self.control: Control = Control()
        self.clock = Clock()
        self.config = counting_config()
        self.scope: RunScope
        self.desk: CommandDesk
        self.stopwatch_seconds = 0.0

    @contextmanager
    def attempt(self, phase: str = "pretrain", control: Control | None = None) -> Iterator[EngineContext]:
        """A context as the runner makes it, of a session that runs."""
        self.control = control or Control()
        scope = self.build()
        run = self.begin(phase)
        scope.recorder.start()
        try:
            yield EngineContext(scope, run, self.clock)
        finally:
            scope.recorder.close()
            self.end()

    def build(self) -> RunScope:
        """Everything that a run shares, without its threads."""
        outbox, telemetry = Outbox(self.registry), Telemetry()
        journal = Journal(outbox, self.session_id, self.paths)
        self.desk = CommandDesk(self.registry, outbox, self.session_id, LEASE, self.control)
        self.scope = RunScope(
            session_id=self.session_id,
            config=self.config,
            paths=self.paths,
            cache=self.engine.home.cache,
            registry=self.registry,
            outbox=outbox,
            place=prepare(counting_config().runtime),
            telemetry=telemetry,
            recorder=Recorder(
                telemetry, lambda: MetricsWriter(self.paths.metrics), lambda: None, journal.event
            ),
            sampler=Sampler(telemetry),
            control=self.control,
            desk=self.desk,
            journal=journal,
            care=Aftercare(self.engine.home, self.registry, self.session, journal, self.clock),
        )
        return self.scope

    def begin(self, phase: str) -> PhaseRunRow:
        now = time.time()
        # What a dead owner leaves; without the file nobody knows at once.
        self.paths.lease.touch()

        def change(c: Any) -> PhaseRunRow:
            edits.take_lease(c, self.session_id, LEASE, "pid 1 on here", now)
            edits.set_session_state(c, self.session_id, State.RUNNING, now=now)
            return edits.set_phase_state(c, self.session_id, phase, State.RUNNING, now=now)

        return self.registry.write(change)

    def end(self) -> None:
        """What a dead owner leaves, seen by the next: interrupted."""
        self.engine.reconcile()

    # --- what a person does -------------------------------------------------------------------------

    def request(self, kind: str) -> CommandRow:
        """Ask the run for something; it is claimed at once, as the recorder would."""
        command = self.registry.write(
            lambda c: edits.request_command(
                c, self.session_id, kind, args={}, requested_by="anna", now=time.time()
            )
        )
        self.desk.poll()
        return command

    def answer(self, command: CommandRow) -> tuple[str, str | None]:
        row = self.registry.one(queries.command(command.id))
        assert row is not None
        return row.state, row.answer

    # --- what a person sees -------------------------------------------------------------------------

    @property
    def session(self) -> SessionRow:
        return self.engine.session(self.session_id)

    def phase(self, name: str = "pretrain") -> PhaseRunRow:
        row = self.registry.one(queries.latest_phase_run(self.session_id, name))
        assert row is not None
        return row

    def events(self, *kinds: str) -> list[str]:
        rows = self.registry.fetch(queries.latest_events(self.session_id, 1000))
        return [row.message for row in rows if not kinds or row.kind in kinds]

    def log(self) -> list[dict[str, Any]]:
        lines = self.paths.log.read_text().splitlines() if self.paths.log.exists() else []
        return [json.loads(line) for line in lines if line]

    def points(self, phase: str = "pretrain") -> dict[str, list[tuple[int, float]]]:
        return points(self.paths.metrics, phase)

    def checkpoints(self, phase: str = "pretrain") -> list[int]:
        return [row.step for row in self.registry.fetch(queries.checkpoints(self.session_id, phase))]


def points(path: Path, phase: str) -> dict[str, list[tuple[int, float]]]:
    """Every point of every series of a phase."""
    reader = open_reader(path)
    try:
        return {
            row.name: [(p.step, p.value) for p in fetch(reader, metrics.points_after(row.id, -1, 100_000))]
            for row in fetch(reader, metrics.series(phase))
        }
    finally:
        reader.close()


def drive(ctx: EngineContext, phase: Counting) -> Sums:
    """Run a phase to its end; its sums."""
    phase.run(ctx, ())
    return phase.sums
