"""Forging: quantisation-aware training to ternary weights through a straight-through estimator.

Warm start from full precision, share of quantisation λ from 0 to 1, Grokfast on the gradient (BitNet b1.58,
arXiv 2402.17764; STE, arXiv 1308.3432; Grokfast, arXiv 2405.20233). Latent weights stay full precision and
are what is handed on; ternary is a view of them.

The control trains beside it: the same parent for the same extra steps on the same batches, never quantised.
Without it a gain could be no more than further training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from forge.config import ForgeTrainingConfig, PipelineConfig
from forge.contract import LoadedModel, PhaseContext, PhaseResult, ProducedModel
from forge.data import prepare_for, train_batch
from forge.errors import TrainingError
from forge.evals import HeldOut, gap_recovered
from forge.models.decoder import Decoder, body_linears
from forge.optim.schedule import lambda_at
from forge.optim.trainer import StepResult, Trainer
from forge.quant.linear import QuantisationHandle, to_ternary
from forge.quant.ternary import ternary_codes


class ForgeTrainer:
    """The ternary student, and beside it the full-precision control on the same batches."""

    def __init__(self, parent: Decoder, forging: ForgeTrainingConfig, ctx: PhaseContext) -> None:
        self.forging = forging
        self.final_share = lambda_at(forging.steps, forging)
        self.student = copy.deepcopy(parent).to(ctx.device)
        self.handle = quantise(self.student, forging)
        if forging.freeze_full_precision:
            freeze_all_but_body(self.student)
        self._trainer = Trainer(
            self.student, forging, ctx.device, ctx.precision, ctx.compile, ctx.warn, self._set_share
        )
        self.control = copy.deepcopy(parent).to(ctx.device) if forging.control else None
        self._control_trainer = (
            Trainer(self.control, forging, ctx.device, ctx.precision, ctx.compile, ctx.warn)
            if self.control is not None
            else None
        )

    def train_step(self, step: int, inputs: torch.Tensor, targets: torch.Tensor) -> StepResult:
        """One step of the student, and the same of the control; inputs and targets are (B, T)."""
        if self._control_trainer is not None:
            self._control_trainer.train_step(step, inputs, targets)
        return self._trainer.train_step(step, inputs, targets)

    def dev_bits(self, held_out: HeldOut) -> float:
        """Bits per byte of what will be handed on, wherever the ramp stands now."""
        self.handle.set_share(self.final_share)
        return held_out.bits_per_byte(self.student, "dev", self.forging.eval_tokens)

    @property
    def skipped_in_row(self) -> int:
        """See `Recoverable.skipped_in_row`; one that has lost its way makes the other useless."""
        beside = self._control_trainer.skipped_in_row if self._control_trainer else 0
        return max(self._trainer.skipped_in_row, beside)

    def slow_down(self, times: int) -> None:
        """See `Recoverable.slow_down`; the control is one only at the same learning rate."""
        for trainer in filter(None, (self._trainer, self._control_trainer)):
            trainer.slow_down(times)

    @property
    def skipped_total(self) -> int:
        """Updates of the student that were skipped for a NaN or infinite gradient."""
        return self._trainer.skipped_total

    def state_dict(self) -> dict[str, Any]:
        """The student as `Trainer.state_dict` gives it, the control beside it."""
        control = self._control_trainer
        return {**self._trainer.state_dict(), "control": control.state_dict() if control else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave."""
        self._trainer.load_state_dict(state)
        if self._control_trainer is not None:
            self._control_trainer.load_state_dict(state["control"])

    def _set_share(self, step: int) -> None:
        self.handle.set_share(lambda_at(step, self.forging))


class Forging:
    """Quantisation-aware training of the model before it."""

    name: ClassVar[str] = "forging"

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config
        self._forging = config.forging

    def total_steps(self, inputs: Sequence[LoadedModel]) -> int:
        """See `Phase.total_steps`."""
        return self._forging.steps

    def run(self, ctx: PhaseContext, inputs: Sequence[LoadedModel]) -> PhaseResult:
        """Train the student and its control, and measure both beside post-training quantisation."""
        parent, forging, seq_len = _only(inputs), self._forging, self._config.data.seq_len
        shards = prepare_for(self._config, forging, ctx.cache, ctx.status, ctx.warn)
        shares = self._config.data.shares()
        held_out = HeldOut(shards, seq_len, ctx.device, ctx.precision, poll=ctx.poll)
        # The same at every start, also of a resumed run: `ctx.steps` restores the generators afterwards.
        batch_seed = ctx.rng.python.getrandbits(64)
        trainer = ForgeTrainer(_decoder(parent), forging, ctx)

        def evaluate(done: int) -> None:
            # Before the first update the student is the post-training quantisation of its parent.
            if done % forging.eval_every == 0 or done == forging.steps:
                ctx.log(done, val=trainer.dev_bits(held_out), zeros=share_of_zeros(trainer.student))

        tokens = forging.batch_size * seq_len
        for step in ctx.steps(forging.steps, trainer, tokens=tokens, evaluate=evaluate):
            windows = train_batch(shards, batch_seed, step, forging.batch_size, seq_len, shares)
            batch = torch.from_numpy(windows)  # (B, T + 1)
            result = trainer.train_step(step, batch[:, :-1], batch[:, 1:])
            share = trainer.handle.share
            ctx.log(step + 1, loss=result.loss, lr=result.lr, grad_norm=result.grad_norm, **{"lambda": share})
        figures = self._measure(ctx, held_out, parent, trainer)
        return PhaseResult(
            [self._produced(parent, trainer, figures)],
            {
                "title": "Forging",
                "rows": report_rows(figures, forging),
                "figures": figures,
                "seed": self._config.seed,
                "skipped_updates": trainer.skipped_total,
            },
        )

    def _measure(
        self, ctx: PhaseContext, held_out: HeldOut, parent: LoadedModel, trainer: ForgeTrainer
    ) -> dict[str, float | None]:
        """Bits per byte on the test split; `full_precision` has had the extra steps if a control ran."""

        def measure(what: str, model: Decoder) -> float:
            ctx.status(f"measuring {what} on held-out files")
            return held_out.bits_per_byte(model, "test", self._forging.report_tokens)

        plain = copy.deepcopy(_decoder(parent)).to(held_out.device)
        before = measure("the full-precision model", plain)
        quantise(plain, self._forging).set_share(trainer.final_share)
        post_training = measure("its post-training quantisation", plain)
        trainer.handle.set_share(trainer.final_share)
        forged = measure("the forged model", trainer.student)
        extra = measure("the control", trainer.control) if trainer.control is not None else None
        full_precision = before if extra is None else extra
        # Without quantisation there is no gap to speak of, only further training.
        recovered = gap_recovered(full_precision, post_training, forged) if trainer.final_share else None
        return {
            "before": before,
            "full_precision": extra,
            "post_training": post_training,
            "forged": forged,
            "gap_recovered": recovered,
        }

    def _produced(
        self, parent: LoadedModel, trainer: ForgeTrainer, figures: dict[str, float | None]
    ) -> ProducedModel:
        card: dict[str, Any] = {"corpus": parent.card.get("corpus"), "seed": self._config.seed}
        if trainer.final_share == 1.0:
            bits = self._forging.activation_bits
            card["quantisation"] = {"scheme": "ternary-b1.58", "activation_bits": bits}
        return ProducedModel(
            name="forged ternary",
            module=trainer.student,
            config=parent.config,
            tokenizer=parent.tokenizer,
            metrics={
                "test_bpb": figures["forged"] or 0.0,
                **{name: value for name, value in figures.items() if value is not None},
            },
            parents={parent.id: 1.0},
            card=card,
        )


def quantise(model: Decoder, forging: ForgeTrainingConfig) -> QuantisationHandle:
    """Put the ternary view over a decoder's body, in place."""
    return to_ternary(model, ste_enabled=forging.ste_enabled, activation_bits=forging.activation_bits)


def freeze_all_but_body(model: Decoder) -> None:
    """Freeze embeddings, norms and head: only what becomes ternary can learn."""
    body = {id(layer.weight) for layer in body_linears(model).values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in body)


@torch.no_grad()
def share_of_zeros(model: Decoder) -> float:
    """Share of ternary codes of the body that are 0; a Gaussian has 0.31, weights that diverged have none."""
    try:
        codes = [ternary_codes(layer.weight)[0] for layer in body_linears(model).values()]
    except TrainingError:
        # The skipped updates tell of it, and `ctx.steps` knows the way back.
        return math.nan
    return sum(int((c == 0).sum()) for c in codes) / sum(c.numel() for c in codes)


def report_rows(figures: dict[str, float | None], forging: ForgeTrainingConfig) -> list[dict[str, Any]]:
    """The figures as lines for a person."""
    recovered = figures["gap_recovered"]
    percent = None if recovered is None else round(100 * recovered, 1)
    bits = "bits/byte"
    with_control = figures["full_precision"] is not None
    rows = [
        ("full precision", figures["before"], bits, "the model it started from"),
        ("  + the same steps", figures["full_precision"], bits, "control, never quantised"),
        ("post-training ternary", figures["post_training"], bits, "rounded, not trained"),
        ("forged ternary", figures["forged"], bits, "" if forging.ste_enabled else "without the estimator"),
        ("gap recovered", percent, "%", "80 % asked for" if with_control else "against the model before"),
    ]
    return [
        {"label": label, "value": value, "unit": unit, "note": note}
        for label, value, unit, note in rows
        if with_control or not label.startswith(" ")
    ]


def _only(inputs: Sequence[LoadedModel]) -> LoadedModel:
    if len(inputs) != 1:
        raise TrainingError(
            f"Forging takes one model and was given {len(inputs)}; run the pre-training phase before it."
        )
    return inputs[0]


def _decoder(model: LoadedModel) -> Decoder:
    if not isinstance(model.module, Decoder):
        raise TrainingError(f"Forging trains Forge's decoder, not a {type(model.module).__name__}.")
    return model.module
