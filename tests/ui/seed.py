"""Homes with sessions in them, made through the registry's own interface, and an engine that only remembers.

Everything is a pure function of its arguments: a snapshot drawn from a seeded home never changes by itself.
What is written is worded as the engine words it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from forge.config import PipelineConfig, dump_yaml
from forge.config.models import (
    DataConfig,
    ForgeTrainingConfig,
    MemoryConfig,
    ModelConfig,
    RecursionConfig,
    RuntimeConfig,
    TrainingConfig,
)
from forge.home import Home
from forge.registry import LIVE, Heartbeat, MetricsWriter, Registry, State, edits, population
from forge.registry.commands import drop_lease, request_command, take_lease
from forge.registry.sqlite import Connection
from forge_tui.ports import CLOSED

NOW = 1_795_500_000.0
"""The fake clock's time: 2026-11-24 06:00 UTC."""
FIRST = "01J0000000000000000000000A"
PHASES = (("pretrain", 500), ("forging", 200))


def _preset(name: str, d_model: int, steps: tuple[int, int], vram: float | None) -> PipelineConfig:
    model = ModelConfig(
        vocab_size=2048, d_model=d_model, n_layers=4, n_heads=4, d_ff=3 * d_model, max_seq_len=128
    )
    return PipelineConfig(
        name=name,
        model=model,
        data=DataConfig(seq_len=128),
        runtime=RuntimeConfig(vram_budget_gb=vram),
        pretrain=TrainingConfig(steps=steps[0]),
        forging=ForgeTrainingConfig(steps=steps[1]),
    )


TINY = _preset("tiny", 128, (500, 200), None)
PRESETS = {"25m": _preset("25m", 512, (4000, 1500), 6.0), "tiny": TINY}
"""What the form offers in tests, so that tuning a preset changes no picture."""
BRANCHED = TINY.model_copy(
    update={
        "name": "branched",
        "phases": ("cognate",),
        "model": TINY.model.model_copy(
            update={"memory": MemoryConfig(chunk=32), "recursion": RecursionConfig(halting="ponder")}
        ),
    }
)
"""A preset with other phases."""


@dataclass
class FakeEngine:
    """Remembers what it was asked; does what a test tells it to."""

    hosting: str | None = None
    fail: Exception | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    made: str = FIRST
    reason: str = ""
    home: Home | None = None
    """Where what a person changes is written."""
    opened: Registry | None = None

    @property
    def registry(self) -> Registry:
        """The registry of the home on the stage; open once it was needed."""
        assert self.home is not None
        self.opened = self.opened or Registry.open(self.home)
        return self.opened

    def close(self) -> None:
        """Close the registry, if it was needed."""
        if self.opened is not None:
            self.opened.close()

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if self.fail is not None:
            raise self.fail

    def create(self, config: PipelineConfig, name: str | None = None) -> str:
        """Pretend to make a session."""
        self._note("create", config.name, name)
        return self.made

    def start(self, session_id: str) -> None:
        """Pretend to run it, here where nothing else runs."""
        self._note("start", session_id)
        self.hosting = self.hosting or session_id

    def request(self, session_id: str, kind: str, **args: object) -> None:
        """Pretend to ask its owner."""
        self._note("request", session_id, kind)

    def resume(self, session_id: str) -> None:
        """Pretend to go on."""
        self._note("resume", session_id)

    def hosted(self) -> str | None:
        """What it was told to pretend."""
        return self.hosting

    def reconcile(self) -> list[str]:
        """Nothing has died."""
        return []

    def shutdown(self, *, keep_training: bool, reason: str = CLOSED) -> None:
        """Pretend to stop."""
        self._note("shutdown", keep_training)
        self.reason = reason
        self.hosting = None


@dataclass(frozen=True)
class Plan:
    """What a seeded session looks like."""

    id: str = FIRST
    name: str = "swift-otter-12"
    state: State = State.RUNNING
    phase: str = "pretrain"
    step: int = 310
    age: float = 842.0
    """Seconds since it began."""
    ended: float = 9.0
    """Seconds since it ended, for one that has."""
    beat_age: float = 1.0
    """Seconds since its last heartbeat."""
    leased: bool = False
    """Somebody took the lease of a session that has not begun."""
    error: str | None = None
    gpu: bool = False
    broken_at: range = range(0)
    """Steps with a NaN loss."""
    points: int | None = None
    """Training points; by default one a step."""
    status: str = ""
    note: str = ""
    preset: str = "tiny"
    events: Sequence[tuple[float, str, str, str, int | None]] = ()
    """(seconds before now, level, kind, message, step)"""
    config: PipelineConfig = TINY
    phases: tuple[tuple[str, int], ...] = PHASES


REPORTS: Mapping[str, Mapping[str, Any]] = {
    "pretrain": {
        "title": "Pre-training",
        "rows": [{"label": "full precision", "value": 1.8421, "unit": "bits/byte", "note": "held-out files"}],
        "seconds": 121.3,
        "peak_memory_bytes": 812_000_000,
    },
    "evomerge": {
        "title": "EvoMerge",
        "rows": [
            {"label": "fittest merge", "value": 1.7719, "unit": "bits/byte", "note": "3.2, handed on"},
            {"label": "uniform average", "value": 1.7904, "unit": "bits/byte", "note": "linear"},
            {"label": "best parent", "value": 1.8317, "unit": "bits/byte", "note": "parent memory"},
            {"label": "random search", "value": 1.7951, "unit": "bits/byte", "note": "random 4"},
            {
                "label": "saved over best parent",
                "value": 0.0598,
                "unit": "bits/byte",
                "note": "95 %: +0.0311 to +0.0872",
            },
        ],
        "seconds": 96.2,
        "peak_memory_bytes": 911_000_000,
    },
    "forging": {
        "title": "Forging",
        "rows": [
            {
                "label": "full precision",
                "value": 1.8421,
                "unit": "bits/byte",
                "note": "the model it started from",
            },
            {
                "label": "  + the same steps",
                "value": 1.8073,
                "unit": "bits/byte",
                "note": "control, never quantised",
            },
            {
                "label": "post-training ternary",
                "value": 3.2617,
                "unit": "bits/byte",
                "note": "rounded, not trained",
            },
            {"label": "forged ternary", "value": 1.9342, "unit": "bits/byte", "note": ""},
            {"label": "gap recovered", "value": 91.3, "unit": "%", "note": "80 % asked for"},
        ],
        "seconds": 74.9,
        "peak_memory_bytes": 865_000_000,
    },
}

EVENTS: Sequence[tuple[float, str, str, str, int | None]] = (
    (842.0, "info", "phase", "pretrain begins", None),
    (610.0, "info", "checkpoint", "checkpoint step 100 (12.4 MB, 31 ms stall)", 100),
    (
        420.0,
        "warning",
        "oom",
        "no memory for micro-batch 16; goes on with 8, the batch stays 16",
        180,
    ),
    (350.0, "info", "checkpoint", "checkpoint step 200 (12.4 MB, 29 ms stall)", 200),
    (60.0, "info", "resume", "resumed at step 200; 17 later points dropped", 200),
    (12.0, "info", "checkpoint", "checkpoint step 300 (12.4 MB, 30 ms stall)", 300),
)


def seed(home: Home, *plans: Plan) -> Home:
    """Fill a home with sessions."""
    with Registry.open(home) as registry:
        for plan in plans:
            registry.write(partial(_rows, plan))
            paths = home.session(plan.id)
            paths.root.mkdir(parents=True, exist_ok=True)
            paths.config.write_text(dump_yaml(plan.config), "utf-8")
            if plan.state is not State.CREATED:
                _metrics(home, plan)
    return home


def _rows(plan: Plan, c: Connection) -> None:
    began, ended = NOW - plan.age, NOW - plan.ended
    edits.create_session(c, id=plan.id, name=plan.name, preset=plan.preset, phases=plan.phases, now=began)
    if plan.note:
        edits.set_note(c, plan.id, plan.note, began)
    for at, level, kind, message, step in plan.events:
        phase = plan.phase if step is not None else None
        edits.add_event(
            c, plan.id, kind=kind, message=message, now=NOW - at, phase=phase, step=step, level=level
        )
    lease = f"lease-{plan.id}"
    if plan.leased or plan.state is not State.CREATED:
        take_lease(c, plan.id, lease, "pid 4121 on gpu-box", began)
    if plan.state is State.CREATED:
        return
    edits.set_session_state(c, plan.id, State.RUNNING, now=began, phase=plan.phase)
    _phase_rows(plan, c, began, ended)
    if "evomerge" in dict(plan.phases):
        _population(plan, c, began)
    if plan.state is not State.RUNNING:
        edits.set_session_state(c, plan.id, plan.state, now=ended, error=plan.error)
    if plan.state not in LIVE:
        drop_lease(c, plan.id, lease, ended)


def _phase_rows(plan: Plan, c: Connection, began: float, ended: float) -> None:
    names = [name for name, _ in plan.phases]
    done = names if plan.state is State.COMPLETED else names[: names.index(plan.phase)]
    for name in done:
        edits.set_phase_state(c, plan.id, name, State.RUNNING, now=began)
        step, report = dict(plan.phases)[name], REPORTS[name]
        edits.set_phase_state(c, plan.id, name, State.COMPLETED, now=ended, step=step, report=report)
    if plan.state is not State.COMPLETED:
        edits.set_phase_state(c, plan.id, plan.phase, State.RUNNING, now=began, step=plan.step)
        if plan.state is not State.RUNNING:
            edits.set_phase_state(c, plan.id, plan.phase, plan.state, now=ended, step=plan.step)


def members(step: int) -> list[dict[str, Any]]:
    """A population of which `step` are measured, as the columns of the registry."""
    models = ("01MODELA", "01MODELB", "01MODELC")
    found = [(f"parent {label}", "parent", 0, "passthrough", [model], 0.279)
             for label, model in zip(("reasoning", "memory", "speed"), models, strict=True)]  # fmt: skip
    plain = ("linear", "multislerp", "ties", "dare_linear", "della")
    found += [(name, "plain", 0, name, [*models], 0.2885) for name in plain]
    combined = ("linear+dare_linear+franken", "multislerp+ties+fusion")
    found += [(name, "combination", 0, "linear", [*models], 0.2891) for name in combined]
    found.append(("start of the search", "search", 0, "dare_linear", [*models], 0.2890))
    for generation in (1, 2, 3):
        fittest = [f"{generation - 1}.{n}" for n in (1, 2, 3, 4)]
        parents = fittest if generation > 1 else ["start of the search"]
        for n in range(1, 7):
            fitness = 0.2872 + 0.0021 * generation - 0.0009 * abs(n - 2)
            found.append((f"{generation}.{n}", "search", generation, "dare_linear", parents, fitness))
    keys = ("name", "kind", "generation", "method", "parents", "fitness")
    return [
        {**dict(zip(keys, one, strict=True)), "fitness": one[5] if place < step else None}
        for place, one in enumerate(found)
    ]


def _population(plan: Plan, c: Connection, began: float) -> None:
    for one in members(plan.step):
        population.add(
            c, plan.id, "evomerge", key=one["name"], generation=one["generation"], name=one["name"],
            kind=one["kind"], genome=[], recipe=[{"merge_method": one["method"]}], parents=one["parents"],
            now=began,
        )  # fmt: skip
        if one["fitness"] is not None:
            population.set_fitness(c, plan.id, "evomerge", one["name"], one["fitness"], {"bpb": 1.8}, began)


def request(home: Home, session_id: str, kind: str) -> None:
    """A command that nobody has answered yet."""
    with Registry.open(home) as registry:
        registry.write(
            lambda c: request_command(c, session_id, kind, args={}, requested_by="a test", now=NOW)
        )


def noise(steps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Repeatable noise between -0.5 and 0.5."""
    wild = np.sin(steps * 12.9898) * 43758.5453
    return wild - np.floor(wild) - 0.5


def losses(phase: str, steps: np.ndarray[Any, Any], count: int) -> Any:
    """A plausible curve: falling from scratch, or up while the weights are rounded and down again."""
    at = steps / max(count, 1)
    if phase == "pretrain":
        return 3.1 + 4.5 * np.exp(-6 * at) + 0.35 * noise(steps) * (0.4 + np.exp(-4 * at))
    return 3.2 + 1.1 * np.minimum(1, 4 * at) * np.exp(-5 * np.maximum(0, at - 0.25)) + 0.25 * noise(steps)


def _generations(count: int) -> list[tuple[str, int, Mapping[str, float]]]:
    """Generation 0 ends after 11, the others after 6 each."""
    ends = range(11, count + 1, 6)
    return [
        ("evomerge", end, {"best": 0.2891 + 0.0016 * n, "mean": 0.2867 + 0.0019 * n,
                           "worst": 0.279 + 0.0033 * n, "diversity": 1.0 * 0.8**n, "val": 1.79 - 0.006 * n})
        for n, end in enumerate(ends)
    ]  # fmt: skip


def _records(plan: Plan, phase: str, count: int) -> list[tuple[str, int, Mapping[str, float]]]:
    if phase == "evomerge":
        return _generations(count)
    steps = np.arange(1, count + 1)
    train = losses(phase, steps, count).tolist()
    for step in plan.broken_at:
        train[step - 1] = math.nan
    if count > 100_000:
        return [(phase, step, {"loss": loss}) for step, loss in zip(steps.tolist(), train, strict=True)]
    records: list[tuple[str, int, Mapping[str, float]]] = []
    for step, loss in zip(steps.tolist(), train, strict=True):
        ramp = {"lambda": min(1.0, step / 50)} if phase == "forging" else {}
        gradient = 0.84 + 0.4 * float(noise(np.array(step * 7.0)))
        records.append((phase, step, {"loss": loss, "lr": 3e-3, "grad_norm": gradient, **ramp}))
    if phase == "forging":
        records.append((phase, 0, {"val": 3.2617, "zeros": 0.31}))
    low, drop = (1.60, 1.9) if phase == "pretrain" else (1.91, 1.3)
    every = 50 if phase == "pretrain" else 25
    for s in range(every, count + 1, every):
        zeros = {"zeros": 0.31 + s / 10_000} if phase == "forging" else {}
        records.append((phase, s, {"val": low + drop * math.exp(-s / 90), **zeros}))
    return records


def _metrics(home: Home, plan: Plan) -> None:
    writer = MetricsWriter(home.session(plan.id).metrics)
    total = dict(plan.phases)[plan.phase]
    records = _records(plan, plan.phase, plan.points or plan.step)
    if plan.phase == "forging":
        records += _records(plan, "pretrain", dict(PHASES)["pretrain"])
    records += [("system", int((NOW - 300 + s) * 1000), _system(s, gpu=plan.gpu)) for s in range(0, 300, 2)]
    for start in range(0, len(records), 100_000):
        writer.append(records[start : start + 100_000])
    live = plan.state in LIVE
    writer.heartbeat(
        Heartbeat(
            at=NOW - plan.beat_age,
            phase=plan.phase,
            step=plan.step,
            total_steps=total if plan.points is None else plan.points,
            steps_per_second=4.1 if live else 0.0,
            tokens_per_second=8412.0 if live and plan.phase != "evomerge" else 0.0,
            eta_seconds=(total - plan.step) / 4.1 if live and plan.points is None else None,
            status=plan.status,
            coalesced=0,
        )
    )
    writer.close()


def _system(second: int, *, gpu: bool) -> dict[str, float]:
    values = {
        "rss_bytes": 6.1e8 + 2e7 * math.sin(second / 20),
        "ram_used_bytes": 8.4e9,
        "ram_total_bytes": 25.2e9,
        "cpu_percent": 87.0,
    }
    if gpu:
        values |= {
            "gpu_used_bytes": 4.2e9,
            "gpu_total_bytes": 141e9,
            "gpu_process_bytes": 3.1e9 + 2e8 * math.sin(second / 15),
            "gpu_percent": 97.0,
            "torch_allocated_bytes": 2.6e9,
            "torch_reserved_bytes": 2.9e9,
            "torch_peak_bytes": 3.0e9,
            "budget_bytes": 6e9,
        }
    return values
