"""What a phase is written against; no engine code, and no torch at import.

A phase reads like the plain training script in a good paper's repository. Everything that makes it
survivable (resume, pause, checkpoints, logging) is behind `PhaseContext`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import random

    import numpy as np
    import torch
    from torch import nn

    from forge.config import ModelConfig, PipelineConfig

Precision = Literal["fp32", "bf16", "fp16"]

HELD_OUT = "val"
"""Metric that names the held-out loss; of a phase's checkpoints the one with the lowest is kept."""


class Stateful(Protocol):
    """Anything whose whole state is a nested dict of tensors, numbers and strings."""

    def state_dict(self) -> dict[str, Any]:
        """The state as nested dicts, lists, tensors and JSON scalars."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take over a state that `state_dict` gave."""
        ...


@runtime_checkable
class Recoverable(Stateful, Protocol):
    """A state that can diverge: `ctx.steps` then goes back to the last checkpoint, and on more slowly."""

    @property
    def skipped_in_row(self) -> int:
        """Updates skipped for a NaN or infinite loss or gradient since the last one that was made."""
        ...

    def slow_down(self, times: int) -> None:
        """Learn at the rate that was lowered so many times in all; 0 is the configured one."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model handed to a phase: weights in memory, and where they came from."""

    id: str
    module: nn.Module
    config: ModelConfig
    tokenizer: Path
    """The `tokenizer.json` that the model was trained with."""
    card: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ProducedModel:
    """A model that a phase made; the engine writes it to disk and into the registry."""

    name: str
    module: nn.Module
    config: ModelConfig
    tokenizer: Path
    metrics: Mapping[str, float]
    parents: Mapping[str, float] = field(default_factory=dict)
    """Parent to its weight in the lineage: the id of a model, or the name of one before it in the result."""
    card: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PhaseResult:
    """What a phase hands on: models, and a report of what was measured against which control."""

    models: Sequence[ProducedModel]
    """All are kept. A parent of another one of them is not handed on: it is there for the lineage."""
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Individual:
    """One member of a population that a phase searches: what it is, and how good it was found to be."""

    key: str
    """Hash of everything that its measurement depends on: the same key never needs a second one."""
    generation: int
    name: str
    kind: str
    """Where it came from, such as `plain`, `search` or `random`."""
    genome: Sequence[float] = ()
    """Its place in the space that is searched; empty for one that does not lie in it."""
    recipe: Sequence[Mapping[str, Any]] = ()
    """How it is made."""
    parents: Sequence[str] = ()
    """Keys of the individuals that it descends from."""
    fitness: float | None = None
    """None until it is measured."""
    metrics: Mapping[str, float] = field(default_factory=dict)


class Population(Protocol):
    """What is known for good about the individuals of a phase run, whatever interrupts it."""

    def known(self) -> Mapping[str, Individual]:
        """All that were ever added, by key."""
        ...

    def add(self, individuals: Sequence[Individual]) -> None:
        """Keep individuals that are about to be measured; those that are known already stay as they are."""
        ...

    def measured(self, key: str, fitness: float, metrics: Mapping[str, float]) -> None:
        """Keep what a measurement found."""
        ...


class Generators(Protocol):
    """The only sources of randomness a phase may draw from; all of them are in the checkpoint."""

    python: random.Random
    numpy: np.random.Generator
    torch: torch.Generator


class PhaseContext(Protocol):
    """Everything a phase needs from the engine."""

    session_id: str
    config: PipelineConfig
    device: torch.device
    precision: Precision
    """Autocast type."""
    compile: bool
    """Whether to compile the training step."""
    cache: Path
    """Where tokenised corpora are kept, shared by all sessions."""
    population: Population
    """For phases that evolve: what is known of each individual, in the registry."""

    @property
    def rng(self) -> Generators:
        """The generators of this phase run."""
        ...

    def steps(
        self, total: int, state: Stateful, *, tokens: int = 0, evaluate: Callable[[int], None] | None = None
    ) -> Iterator[int]:
        """Steps `k … total-1`, from the checkpointed one on; pauses, stops and checkpoints between them.

        Restores `state` before the first step when this phase run is resumed. One that is `Recoverable` is
        taken back to the last checkpoint when it has diverged; the steps then go on from there. `tokens` in
        one step is for the throughput shown to people.

        `evaluate` is called with the steps done, before the first step and after each, to measure the state
        where that is due. It changes nothing but the log, because a run that is stopped at a `poll` in it
        calls it again for the same step when it is resumed.
        """
        ...

    def poll(self) -> None:
        """Show life, and pause, stop or checkpoint here as between two steps, where that is asked for.

        For work that takes long between the steps, such as `evaluate`; inside a step it shows life only.
        """
        ...

    def log(self, step: int, /, **metrics: float) -> None:
        """Record metrics of a step, `val` the held-out loss; never blocks. NaN and infinities are kept."""
        ...

    def event(self, kind: str, message: str, *, step: int | None = None, level: str = "info") -> None:
        """Record something a person should see, once, on the chart and in the log."""
        ...

    def model_folder(self, model_id: str) -> Path:
        """Where a model of this session lies, to stream its weights: an input, or what it came from.

        Raises:
            CheckpointError: it is gone, or not what it was.
        """
        ...

    def warn(self, kind: str, message: str) -> None:
        """An event of level `warning`."""
        ...

    def status(self, message: str) -> None:
        """Say what is going on outside the step loop (preparing data, evaluating)."""
        ...


class Phase(Protocol):
    """One step of the pipeline."""

    name: ClassVar[str]

    def total_steps(self, inputs: Sequence[LoadedModel]) -> int:
        """How many steps `run` will take, for progress and estimates."""
        ...

    def run(self, ctx: PhaseContext, inputs: Sequence[LoadedModel]) -> PhaseResult:
        """Do the work; called again from the start after a resume, `ctx.steps` skips what is done."""
        ...
