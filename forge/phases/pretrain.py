"""Pre-training: a causal language model from scratch, in full precision.

SubLN is in the architecture from the first step on: putting it in later costs more than the quantisation it
is there for. What this phase hands on is what Forging warm-starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from forge.config import PipelineConfig
from forge.contract import LoadedModel, PhaseContext, PhaseResult, ProducedModel
from forge.data import prepare_for, train_batch
from forge.evals import HeldOut
from forge.models.decoder import Decoder
from forge.optim.trainer import Trainer


class Pretraining:
    """Full-precision training from scratch."""

    name: ClassVar[str] = "pretrain"

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config
        self._training = config.pretrain

    def total_steps(self, inputs: Sequence[LoadedModel]) -> int:
        """See `Phase.total_steps`."""
        return self._training.steps

    def run(self, ctx: PhaseContext, inputs: Sequence[LoadedModel]) -> PhaseResult:
        """Train, and measure the result once on the test split."""
        training, seq_len = self._training, self._config.data.seq_len
        shards = prepare_for(self._config, training, ctx.cache, ctx.status, ctx.warn)
        shares = self._config.data.shares()
        held_out = HeldOut(shards, seq_len, ctx.device, ctx.precision, poll=ctx.poll)
        # The same at every start, also of a resumed run: `ctx.steps` restores the generators afterwards.
        batch_seed = ctx.rng.python.getrandbits(64)
        model = Decoder(self._config.model).initialise(ctx.rng.torch).to(ctx.device)
        trainer = Trainer(model, training, ctx.device, ctx.precision, ctx.compile, ctx.warn)

        def evaluate(done: int) -> None:
            if done and (done % training.eval_every == 0 or done == training.steps):
                ctx.log(done, val=held_out.bits_per_byte(model, "dev", training.eval_tokens))

        tokens = training.batch_size * seq_len
        for step in ctx.steps(training.steps, trainer, tokens=tokens, evaluate=evaluate):
            windows = train_batch(shards, batch_seed, step, training.batch_size, seq_len, shares)
            batch = torch.from_numpy(windows)  # (B, T + 1)
            result = trainer.train_step(step, batch[:, :-1], batch[:, 1:])
            ctx.log(step + 1, loss=result.loss, lr=result.lr, grad_norm=result.grad_norm)
        ctx.status("measuring on held-out files")
        test_bpb = held_out.bits_per_byte(model, "test", training.report_tokens)
        produced = ProducedModel(
            name="full precision",
            module=model,
            config=self._config.model,
            tokenizer=shards.tokenizer,
            metrics={"test_bpb": test_bpb},
            card={"corpus": shards.info.model_dump(mode="json"), "seed": self._config.seed},
        )
        return PhaseResult([produced], self._report(test_bpb, trainer))

    def _report(self, test_bpb: float, trainer: Trainer) -> dict[str, Any]:
        return {
            "title": "Pre-training",
            "rows": [
                {"label": "full precision", "value": test_bpb, "unit": "bits/byte", "note": "held-out files"}
            ],
            "seed": self._config.seed,
            "skipped_updates": trainer.skipped_total,
        }
