"""Homes with sessions in them, made through the registry's own interface, and an engine that only remembers.

Everything is a pure function of its arguments: a snapshot drawn from a seeded home never changes by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from forge.config import PipelineConfig, dump_yaml, load_config
from forge.home import Home
from forge.registry import Heartbeat, MetricsWriter, Registry, State, edits
from forge.registry.commands import drop_lease, request_command, take_lease
from forge.registry.sqlite import Connection

NOW = 1_795_500_000.0
"""The fake clock's time: 2026-11-24 06:00 UTC."""
FIRST = "01J0000000000000000000000A"
PHASES = (("pretrain", 500), ("forging", 200))
TINY: PipelineConfig = load_config("tiny")


@dataclass
class FakeEngine:
    """Remembers what it was asked; does what a test tells it to."""

    hosting: str | None = None
    fail: Exception | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    made: str = FIRST

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if self.fail is not None:
            raise self.fail

    def create(self, config: PipelineConfig, name: str | None = None) -> str:
        """Pretend to make a session."""
        self._note("create", config.name, name)
        return self.made

    def host(self, session_id: str) -> None:
        """Pretend to run it."""
        self._note("host", session_id)
        self.hosting = session_id

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

    def shutdown(self, *, keep_training: bool) -> None:
        """Pretend to stop."""
        self._note("shutdown", keep_training)
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
    error: str | None = None
    gpu: bool = False
    broken_at: range = range(0)
    """Steps with a NaN loss."""
    points: int | None = None
    """Training points; by default one a step."""
    status: str = ""
    note: str = ""
    preset: str = "tiny"
    reports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    events: Sequence[tuple[float, str, str, str, int | None]] = ()
    """(seconds before now, level, kind, message, step)"""
    config: PipelineConfig = TINY


REPORTS: Mapping[str, Mapping[str, Any]] = {
    "pretrain": {
        "title": "Pre-training",
        "rows": [{"label": "full precision", "value": 1.8421, "unit": "bits/byte", "note": "held-out files"}],
        "seconds": 121.3,
        "peak_memory_bytes": 812_000_000,
    },
    "forging": {
        "title": "Forging",
        "rows": [
            {"label": "full precision", "value": 1.8073, "unit": "bits/byte", "note": "same extra steps"},
            {"label": "post-training ternary", "value": 3.2617, "unit": "bits/byte", "note": "no training"},
            {"label": "forged ternary", "value": 1.9342, "unit": "bits/byte", "note": ""},
            {"label": "gap recovered", "value": 91.3, "unit": "%", "note": "80 % asked for"},
        ],
        "seconds": 74.9,
        "peak_memory_bytes": 865_000_000,
    },
}

EVENTS: Sequence[tuple[float, str, str, str, int | None]] = (
    (842.0, "info", "phase", "pretrain begins", 0),
    (610.0, "info", "checkpoint", "checkpoint step 100 (12.4 MB, 31 ms stall)", 100),
    (420.0, "warning", "oom", "out of memory: micro-batch 16 → 8, accumulation 1 → 2", 180),
    (350.0, "info", "checkpoint", "checkpoint step 200 (12.4 MB, 29 ms stall)", 200),
    (60.0, "info", "resume", "resumed at step 200", 200),
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
            if plan.step >= 0 and plan.state is not State.CREATED:
                _metrics(home, plan)
    return home


def _rows(plan: Plan, c: Connection) -> None:
    began = NOW - plan.age
    edits.create_session(c, id=plan.id, name=plan.name, preset=plan.preset, phases=PHASES, now=began)
    if plan.note:
        edits.set_note(c, plan.id, plan.note, began)
    for at, level, kind, message, step in plan.events:
        phase = plan.phase if step is not None else None
        edits.add_event(
            c, plan.id, kind=kind, message=message, now=NOW - at, phase=phase, step=step, level=level
        )
    if plan.state is State.CREATED:
        return
    take_lease(c, plan.id, f"lease-{plan.id}", "pid 4121 on gpu-box", began)
    edits.set_session_state(c, plan.id, State.RUNNING, now=began, phase=plan.phase)
    names = [name for name, _ in PHASES]
    done = names if plan.state is State.COMPLETED else names[: names.index(plan.phase)]
    for name in done:
        edits.set_phase_state(c, plan.id, name, State.RUNNING, now=began)
        report = plan.reports.get(name)
        step = dict(PHASES)[name]
        edits.set_phase_state(c, plan.id, name, State.COMPLETED, now=NOW - 10, step=step, report=report)
    if plan.state is not State.COMPLETED:
        edits.set_phase_state(c, plan.id, plan.phase, State.RUNNING, now=began, step=plan.step)
        if plan.state is not State.RUNNING:
            edits.set_phase_state(c, plan.id, plan.phase, plan.state, now=NOW - 9, step=plan.step)
    if plan.state is not State.RUNNING:
        edits.set_session_state(c, plan.id, plan.state, now=NOW - 9, error=plan.error)
    if plan.state not in (State.RUNNING, State.PAUSED):
        drop_lease(c, plan.id, f"lease-{plan.id}", NOW - 9)


def request(home: Home, session_id: str, kind: str) -> None:
    """A command that nobody has answered yet."""
    with Registry.open(home) as registry:
        registry.write(
            lambda c: request_command(c, session_id, kind, args={}, requested_by="a test", now=NOW)
        )


def losses(steps: np.ndarray[Any, Any], start: float, end: float, rate: float) -> np.ndarray[Any, Any]:
    """A plausible curve with repeatable noise."""
    noise = np.sin(steps * 12.9898) * 43758.5453
    return end + (start - end) * np.exp(-steps / rate) + 0.08 * (noise - np.floor(noise) - 0.5) * 4


def _metrics(home: Home, plan: Plan) -> None:
    writer = MetricsWriter(home.session(plan.id).metrics)
    total = dict(PHASES)[plan.phase]
    count = plan.points or plan.step
    steps = np.arange(1, count + 1)
    train = losses(steps, 7.6, 3.1, count / 6 + 1)
    records: list[tuple[str, int, Mapping[str, float]]] = []
    for step, loss in zip(steps.tolist(), train.tolist(), strict=True):
        value = math.nan if step in plan.broken_at else loss
        extra = {"lambda": min(1.0, step / 50), "zeros": 0.31} if plan.phase == "forging" else {}
        records.append((plan.phase, step, {"loss": value, "lr": 3e-3, "grad_norm": 0.84, **extra}))
    records += [
        (plan.phase, s, {"val": float(1.6 + 1.9 * math.exp(-s / 90))}) for s in range(50, count + 1, 50)
    ]
    records += [("system", int((NOW - 300 + s) * 1000), _system(s, gpu=plan.gpu)) for s in range(0, 300, 2)]
    for start in range(0, len(records), 20_000):
        writer.append(records[start : start + 20_000])
    live = plan.state in (State.RUNNING, State.PAUSED)
    writer.heartbeat(
        Heartbeat(
            at=NOW - 1,
            phase=plan.phase,
            step=plan.step,
            total_steps=total,
            steps_per_second=4.1 if live else 0.0,
            tokens_per_second=8412.0 if live else 0.0,
            eta_seconds=(total - plan.step) / 4.1 if live else None,
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
        "cpu_percent": 187.0,
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
