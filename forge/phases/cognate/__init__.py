"""Cognate: three related models. One base is trained, then three branches continue from it.

The branches share a beginning and a shape, so that they can be merged: the average of models from unrelated
seeds is worse than each of them. What tells them apart is what they are trained on and a few knobs: reasoning
recurs more deeply, memory has more to remember, speed learns to stop early.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from forge.config import BRANCHES, Branch, PipelineConfig
from forge.contract import LoadedModel, PhaseContext, PhaseResult, ProducedModel
from forge.data import TokenData, epochs_warning, prepare_for, train_batch
from forge.errors import TrainingError
from forge.evals import HeldOut
from forge.models.decoder import Decoder
from forge.phases.cognate.report import report
from forge.phases.cognate.specialities import Figures, measure, use_of_parts
from forge.phases.cognate.trainer import STAGES, CognateTrainer, stage_of


class Cognate:
    """A base and three branches of it, from scratch."""

    name: ClassVar[str] = "cognate"

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config
        self._cognate = config.cognate

    def total_steps(self, inputs: Sequence[LoadedModel]) -> int:
        """See `Phase.total_steps`."""
        return self._cognate.total_steps

    def run(self, ctx: PhaseContext, inputs: Sequence[LoadedModel]) -> PhaseResult:
        """Train one after the other, and measure all of them once on the test split."""
        if inputs:
            raise TrainingError("Cognate begins from nothing and takes no model; run it first.")
        cognate, data = self._cognate, self._config.data
        shards = self._prepare(ctx)
        held_out = HeldOut(shards, data.seq_len, ctx.device, ctx.precision)
        # The same at every start, also of a resumed run: `ctx.steps` restores the generators afterwards.
        seeds = {stage: ctx.rng.python.getrandbits(64) for stage in STAGES}
        base = Decoder(self._config.model).initialise(ctx.rng.torch)
        trainer = CognateTrainer(self._config, ctx, base)
        tokens = cognate.batch_size * data.seq_len
        for step in ctx.steps(cognate.total_steps, trainer, tokens=tokens):
            stage, own = stage_of(step, cognate)
            trainer.enter(stage)
            shares = data.shares(stage)
            windows = train_batch(shards, seeds[stage], own, cognate.batch_size, data.seq_len, shares)
            batch = torch.from_numpy(windows)  # (B, T + 1)
            result = trainer.train_step(own, batch[:, :-1], batch[:, 1:])
            ctx.log(step + 1, loss=result.loss, lr=result.lr, grad_norm=result.grad_norm)
            if stage != "base":
                # As if all three had begun at once: their curves lie over each other.
                ctx.log(cognate.steps + own + 1, **{f"loss_{stage}": result.loss})
            last = own + 1 == cognate.branch(stage).steps
            if last or (own + 1) % cognate.eval_every == 0:
                ctx.log(step + 1, **self._look(held_out, trainer.model))
        models = trainer.models()
        figures = measure(ctx, held_out, models, self._config)
        produced = [self._produced(stage, models[stage], shards, figures) for stage in STAGES]
        return PhaseResult(produced, report(figures, self._config, trainer.skipped_total))

    def _prepare(self, ctx: PhaseContext) -> TokenData:
        cognate, data = self._cognate, self._config.data
        shards = prepare_for(self._config, cognate, ctx.cache, ctx.status, ctx.warn)
        for branch in BRANCHES:
            steps, shares = cognate.branch(branch).steps, data.shares(branch)
            if text := epochs_warning(steps, cognate.batch_size, data.seq_len, shards, shares):
                ctx.warn("epochs", f"{branch}: {text}")
        return shards

    def _look(self, held_out: HeldOut, model: Decoder) -> dict[str, float]:
        """What is logged of the dev split; the same text for all stages, so that they can be compared."""
        val = held_out.bits_per_byte(model, "dev", self._cognate.eval_tokens)
        return {"val": val, **use_of_parts(held_out, model)}

    def _produced(self, stage: Branch, model: Decoder, shards: TokenData, figures: Figures) -> ProducedModel:
        return ProducedModel(
            name=stage,
            module=model,
            config=model.config,
            tokenizer=shards.tokenizer,
            metrics=figures.metrics(stage),
            parents={} if stage == "base" else {"base": 1.0},
            card={
                "corpus": shards.info.model_dump(mode="json"),
                "seed": self._config.seed,
                "speciality": None if stage == "base" else stage,
                "mix": [share.model_dump() for share in self._config.data.shares(stage)],
            },
        )
