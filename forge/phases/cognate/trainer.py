"""The base, then one branch after the other, each with optimisers of its own.

Only one of them trains at a time. Its whole state is in the checkpoint, and so are the weights of those that
are finished: a run that is resumed in a branch needs nothing but its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from torch import Tensor

from forge.config import Branch, CognateConfig, ModelConfig, PipelineConfig
from forge.contract import PhaseContext
from forge.models.decoder import Decoder
from forge.optim.trainer import StepResult, Trainer

STAGES: tuple[Branch, ...] = get_args(Branch)
"""In the order in which they are trained; the base is first."""


def stage_of(step: int, cognate: CognateConfig) -> tuple[Branch, int]:
    """Which stage a step of the phase belongs to, and which step of that stage it is."""
    for stage in STAGES[:-1]:
        if step < cognate.branch(stage).steps:
            return stage, step
        step -= cognate.branch(stage).steps
    return STAGES[-1], step


class CognateTrainer:
    """Trains one stage after the other; `base` is the model to begin with."""

    def __init__(self, config: PipelineConfig, ctx: PhaseContext, base: Decoder) -> None:
        self._config, self._ctx = config, ctx
        self._slowed = 0
        self._skipped = 0
        """Updates skipped in finished stages."""
        self.finished: dict[Branch, dict[str, Tensor]] = {}
        """Weights, in main memory."""
        self.stage: Branch = "base"
        self._trainer = self._trainer_of("base", base.state_dict())

    @property
    def model(self) -> Decoder:
        """The one that is trained now."""
        return self._trainer.model

    def enter(self, stage: Branch) -> None:
        """Go on with a stage; where it is another, the present one is finished."""
        if stage == self.stage:
            return
        # Nothing trains them from here on.
        self.finished[self.stage] = _in_main_memory(self.model.state_dict())
        self._skipped += self._trainer.skipped_total
        self._begin(stage, self.finished["base"])

    def train_step(self, step: int, inputs: Tensor, targets: Tensor) -> StepResult:
        """One step of the present stage, counted from its beginning; inputs and targets are (B, T)."""
        return self._trainer.train_step(step, inputs, targets)

    def models(self) -> dict[Branch, Decoder]:
        """Every stage's model on the CPU, by stage, once all are trained; each with the knobs of the base.

        The knobs of a branch are for its training: what is handed on is one architecture, to be merged.
        """
        weights = {**self.finished, self.stage: self.model.state_dict()}
        found: dict[Branch, Decoder] = {}
        for stage in STAGES:
            found[stage] = Decoder(self._config.model)
            found[stage].load_state_dict(weights[stage])
        return found

    @property
    def skipped_total(self) -> int:
        """Updates that were skipped for a NaN or infinite loss or gradient."""
        return self._skipped + self._trainer.skipped_total

    @property
    def skipped_in_row(self) -> int:
        """See `Recoverable.skipped_in_row`."""
        return self._trainer.skipped_in_row

    def slow_down(self, times: int) -> None:
        """See `Recoverable.slow_down`; stages that follow are as slow."""
        self._slowed = times
        self._trainer.slow_down(times)

    def state_dict(self) -> dict[str, Any]:
        """The present stage as `Trainer.state_dict` gives it, and the weights of those before it."""
        return {
            **self._trainer.state_dict(),
            "stage": self.stage,
            "finished": dict(self.finished),
            "skipped": self._skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave."""
        self.finished = {name: _in_main_memory(weights) for name, weights in state["finished"].items()}
        self._skipped = int(state["skipped"])
        if state["stage"] != self.stage:
            self._begin(state["stage"], state["model"])
        self._trainer.load_state_dict(state)

    def _begin(self, stage: Branch, weights: Mapping[str, Tensor]) -> None:
        self.stage = stage
        self._trainer = self._trainer_of(stage, weights)
        self._trainer.slow_down(self._slowed)

    def _trainer_of(self, stage: Branch, weights: Mapping[str, Tensor]) -> Trainer:
        ctx = self._ctx
        model = Decoder(self._shape(stage))
        model.load_state_dict(weights)
        training = self._config.cognate.training(stage)
        return Trainer(model.to(ctx.device), training, ctx.device, ctx.precision, ctx.compile, ctx.warn)

    def _shape(self, stage: Branch) -> ModelConfig:
        return self._config.cognate.branch(stage).of(self._config.model)


def _in_main_memory(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in weights.items()}
