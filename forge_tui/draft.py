"""A session that does not exist yet: what a person typed, whether it can run, and what it would cost.

Pure apart from looking whether a corpus is there. Estimates say "about": they are sums, not measurements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from forge.config import (
    BRANCHES,
    PHASE_NAMES,
    SEARCHED_PHASES,
    CognateConfig,
    ModelConfig,
    PipelineConfig,
    contradictions,
    load_config,
)
from forge.config.check import parameter_count
from forge.config.corpus import corpus_form_problem

TORCH_BYTES = 350e6
"""Resident size of the tensor library itself, measured on a CPU build."""
MAX_NAME = 60


@dataclass(frozen=True)
class Draft:
    """What stands in the fields, as text."""

    preset: str
    name: str = ""
    corpus: str = ""
    seed: str = ""
    steps: Mapping[str, str] = field(default_factory=dict)
    """Phase to number of steps."""
    vram: str = ""
    """Most GPU memory in GB; empty sets no limit."""
    host: str = "thread"
    """Who runs it: a thread of this program, or a process of its own."""


@dataclass(frozen=True)
class Checked:
    """A draft that was looked at."""

    config: PipelineConfig | None
    """What would run; none while there is a problem."""
    problems: Mapping[str, str]
    """Field to reason; fields are those of `Draft`, a phase's name, and `preset` for the rest."""


@dataclass(frozen=True)
class Estimate:
    """What a session would cost."""

    parameters: int
    steps: int
    tokens: int
    memory_bytes: float
    disk_bytes: float


def from_preset(preset: str) -> Draft:
    """A draft with every field filled from a preset."""
    config = load_config(preset)
    steps = {name: str(getattr(config, name).steps) for name in trained(config)}
    budget = config.runtime.vram_budget_gb
    vram = "" if budget is None else f"{budget:g}"
    return Draft(preset, "", config.data.corpus, str(config.seed), steps, vram, config.runtime.host)


def trained(config: PipelineConfig) -> list[str]:
    """The phases of a configuration whose steps a person chooses."""
    return [name for name in config.phases if name not in SEARCHED_PHASES]


def check(draft: Draft) -> Checked:
    """Look at every field and at how they fit together; all problems at once."""
    problems: dict[str, str] = {}
    if (reason := name_problem(draft.name)) is not None:
        problems["name"] = reason
    if (reason := corpus_form_problem(draft.corpus)) is not None:
        problems["corpus"] = reason
    data: dict[str, Any] = load_config(draft.preset).model_dump(mode="json")
    numbers = {"seed": draft.seed, **draft.steps}
    for name, text in numbers.items():
        number = whole_number(text)
        if number is None:
            problems[name] = "a whole number is needed" if text.strip() else "a number is needed"
        elif name == "seed":
            data["seed"] = number
        else:
            data[name]["steps"] = number
    if (reason := budget_problem(draft.vram)) is not None:
        problems["vram"] = reason
    data["data"]["corpus"] = draft.corpus.strip()
    data["runtime"]["vram_budget_gb"] = None if reason or not draft.vram.strip() else float(draft.vram)
    data["runtime"]["host"] = draft.host
    if problems:
        return Checked(None, problems)
    config, found = _validate(data)
    for place, reason in found:
        problems.setdefault(_field_of(place), reason)
    return Checked(None if problems else config, problems)


def _validate(data: Mapping[str, Any]) -> tuple[PipelineConfig | None, list[tuple[str, str]]]:
    try:
        config = PipelineConfig.model_validate(data)
    except ValidationError as error:
        return None, [(".".join(map(str, e["loc"])), str(e["msg"]).lower()) for e in error.errors()]
    return config, contradictions(config)


def _field_of(place: str) -> str:
    head = place.partition(".")[0]
    named = {"data": "corpus", "runtime.vram_budget_gb": "vram"}
    if (field_name := named.get(place, named.get(head))) is not None:
        return field_name
    return head if head in ("seed", *PHASE_NAMES) else "preset"


def whole_number(text: str) -> int | None:
    """A non-negative whole number as people type it: `2000`, `2,000`, `2_000`."""
    plain = re.sub(r"(?<=\d)[,_ ](?=\d{3}(?!\d))", "", text.strip())
    return int(plain) if re.fullmatch(r"[0-9]{1,12}", plain) else None


def name_problem(name: str) -> str | None:
    """Why a session cannot be called so; an empty name is chosen by Forge."""
    if len(name) > MAX_NAME:
        return f"at most {MAX_NAME} characters"
    return None if name.isprintable() else "only characters that can be printed"


def budget_problem(text: str) -> str | None:
    """Why this is no amount of memory; an empty one sets no limit."""
    if not text.strip():
        return None
    try:
        amount = float(text)
    except ValueError:
        return "a number of GB, or nothing"
    return None if 0 < amount < math.inf else "more than 0"


def estimate(config: PipelineConfig) -> Estimate:
    """Parameters, steps, tokens, and about how much memory and disk."""
    m = config.model
    parameters = parameter_count(config)
    phases = [getattr(config, name) for name in trained(config)]
    # Weights, gradients and two optimiser averages in fp32, and what a gradient filter keeps.
    state = parameters * 4 * max(_models(phase) * (4 + _filter_copies(phase)) for phase in phases)
    batch = max(phase.micro_batch for phase in phases) * config.data.seq_len
    activations = batch * 4 * _activations(m)
    kept = config.runtime.keep_checkpoints + 1  # and the best
    copies = [
        kept * (_models(phase) * (3 + _filter_copies(phase)) + _finished(phase)) + 1 + _finished(phase)
        for phase in phases
    ]
    disk = parameters * 4 * sum(copies)
    tokens = sum(phase.total_steps * phase.batch_size for phase in phases) * config.data.seq_len
    steps = sum(getattr(config, name).total_steps for name in config.phases)
    return Estimate(parameters, steps, tokens, TORCH_BYTES + state + activations, disk)


def _activations(m: ModelConfig) -> int:
    """Numbers that one token leaves for the backward pass, about."""
    stack = m.n_layers * (16 * m.d_model + 5 * m.d_ff)
    if m.memory is not None:
        stack += len(range(0, m.n_layers, m.memory.every)) * (
            20 * m.d_model + 5 * m.memory.n_heads * m.memory.chunk
        )
    if m.recursion is None:
        return stack + 3 * m.vocab_size
    return m.recursion.supervision * ((m.recursion.latent_steps + 1) * stack + 3 * m.vocab_size)


def _models(phase: Any) -> int:
    """How many models a phase trains: Forging has a control beside the one that it makes."""
    return 2 if getattr(phase, "control", False) else 1


def _finished(phase: Any) -> int:
    """How many models lie beside the one that a phase ends with, in its last checkpoints and for good."""
    return len(BRANCHES) if isinstance(phase, CognateConfig) else 0


def _filter_copies(phase: Any) -> float:
    if phase.grokfast is None:
        return 0.0
    return 1.0 if phase.grokfast.kind == "ema" else float(phase.grokfast.window)


def _knobs(phase: Any) -> object:
    """What makes the steps of a phase cost different things."""
    if not isinstance(phase, CognateConfig):
        return None
    branches = [phase.branch(name) for name in BRANCHES]
    return [(b.steps / phase.total_steps, b.cycles, b.supervision, b.memory_chunk) for b in branches]


def comparable(a: PipelineConfig, b: PipelineConfig) -> bool:
    """Whether a step of `a` costs what a step of `b` costs on the same machine."""

    def shape(config: PipelineConfig) -> object:
        phases = [
            (name, p.batch_size, p.micro_batch, p.optimizer, p.grokfast, _models(p), _knobs(p))
            for name in trained(config)
            for p in [getattr(config, name)]
        ]
        runtime = config.runtime
        return config.model, config.data.seq_len, runtime.device, runtime.precision, runtime.compile, phases

    return shape(a) == shape(b)
