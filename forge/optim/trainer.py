"""One optimiser step: micro-batches, clipping, Grokfast, update; and what happens when it goes wrong.

A step either happens as a whole or leaves weights, moments and averages as they were: running out of
memory retries the same batch in smaller pieces, a NaN or infinite loss or gradient skips the update.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forge.config import TrainingConfig
from forge.contract import Precision
from forge.errors import OutOfMemoryError
from forge.models.decoder import Decoder
from forge.optim.build import build_optimizer
from forge.optim.grokfast import Grokfast
from forge.optim.qk_clip import QKClip
from forge.optim.schedule import lr_ratio, weight_decay_ratio

OnEvent = Callable[[str, str], None]

SHORTEST = 8
"""Tokens; a shorter sequence is not tried when it is looked for what would fit."""
MOST_GRAPHS = 128
"""Compiled versions of the loss that one process may hold."""

_NOT_EXACT = "does not have a deterministic implementation"
"""What torch says of such an operation, after its name, where determinism is asked for."""
_NO_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    loss: float
    """Mean over the whole batch, in nats per token, before the update."""
    grad_norm: float
    """Norm of the whole gradient before clipping."""
    lr: float
    """Learning rate of AdamW."""
    skipped: bool
    """The loss or the gradient was NaN or infinite, so nothing was updated."""
    micro_batch: int
    """Sequences in one forward pass."""
    peak_logit: float | None = None
    """Largest attention logit before the update; none where `qk_clip` does not look."""


class Trainer:
    """Trains a model that is already on `device`; frozen parameters must be frozen before.

    `on_event(kind, message)` hears of `oom`, `skipped` and `inexact`; `before_step(step)` runs first in
    every step (Forging sets its share of quantisation there).
    """

    def __init__(
        self,
        model: Decoder,
        training: TrainingConfig,
        device: torch.device,
        precision: Precision = "fp32",
        compile: bool = False,
        on_event: OnEvent = lambda kind, message: None,
        before_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.model, self.training, self.device, self.precision = model, training, device, precision
        self.optimizers = build_optimizer(model, training, device)
        self.grokfast = Grokfast(training.grokfast) if training.grokfast else None
        self.qk_clip = QKClip(model, training.qk_clip) if training.qk_clip is not None else None
        self.micro_batch = training.micro_batch
        model.recompute = training.gradient_checkpointing
        self.skipped_total = 0
        self.skipped_in_row = 0
        """Without one that was made since; fp16's search for its loss scale is not counted."""
        self._slowness = 1.0
        self._peak_logit: float | None = None
        self._on_event, self._before_step = on_event, before_step
        self._loss = _compiled(model) if compile else model.training_loss
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def train_step(self, step: int, inputs: Tensor, targets: Tensor) -> StepResult:
        """Train on `inputs` and `targets` (batch, T), token ids.

        Raises:
            OutOfMemoryError: even at micro-batch 1, or while updating the weights.
        """
        self._before_step(step)
        ratio = lr_ratio(step, self.training) * self._slowness
        self.optimizers.set_lr(ratio)
        self.optimizers.set_weight_decay(weight_decay_ratio(step, self.training))
        loss, norm = self._gradient(inputs.to(self.device), targets.to(self.device))
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        if skipped:
            self._skip(step, loss, norm)
        else:
            self._update()
        lr = self.training.learning_rate * ratio
        return StepResult(loss, norm, lr, skipped, self.micro_batch, self._peak_logit)

    def slow_down(self, times: int) -> None:
        """See `Recoverable.slow_down`; how often is for whoever calls it to keep."""
        self._slowness = self.training.rollback_lr_factor**times

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs from here; the tensors are the live ones, copy before going on."""
        return {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "grokfast": self.grokfast.state_dict() if self.grokfast else {},
            "scaler": self._scaler.state_dict(),
            "counters": {
                "micro_batch": self.micro_batch,
                "skipped_total": self.skipped_total,
                "skipped_in_row": self.skipped_in_row,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a copy of a state that `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        if self.grokfast:
            self.grokfast.load_state_dict(state["grokfast"], self.optimizers.named)
        if self._scaler.is_enabled() and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        counters = state["counters"]
        self.micro_batch = int(counters["micro_batch"])
        self.skipped_total = int(counters["skipped_total"])
        self.skipped_in_row = int(counters["skipped_in_row"])

    def _gradient(self, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Leave the clipped gradient of the mean loss in `.grad`; return the loss and the gradient's norm."""
        if self.qk_clip:
            self.qk_clip.watch(True)
        tried = []
        while (total := self._accumulate(inputs, targets)) is None:
            tried.append(self.micro_batch)
            self._shrink(inputs, targets, tried)
        if self._scaler.is_enabled():
            for part in self.optimizers.parts.values():
                self._scaler.unscale_(part)
        grads = [p.grad for p in self.optimizers.named.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads).to(total.device)
        if self.training.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(
                self.optimizers.named.values(), self.training.grad_clip, norm
            )
        figures = [total, norm]
        if self.qk_clip:
            self.qk_clip.watch(False)
            figures.append(self.qk_clip.peak())
        # The one place in a step where the host waits for the device.
        loss, length, *peaks = torch.stack(figures).tolist()
        self._peak_logit = peaks[0] if peaks else None
        return loss, length

    def _accumulate(self, inputs: Tensor, targets: Tensor) -> Tensor | None:
        """Add up the gradients of all micro-batches; None when the memory ran out."""
        total = torch.zeros((), device=self.device)
        try:
            for x, y in zip(inputs.split(self.micro_batch), targets.split(self.micro_batch), strict=True):
                share = len(x) / len(inputs)
                with self._autocast():
                    loss = self._loss(x, y) * share
                self._scaler.scale(loss).backward()
                total += loss.detach()
        except RuntimeError as error:
            if is_out_of_memory(error):
                return None
            if _NOT_EXACT not in str(error) or torch.is_deterministic_algorithms_warn_only_enabled():
                raise
            self._allow_inexact(error)
        else:
            return total
        return self._accumulate(inputs, targets)

    def _allow_inexact(self, error: RuntimeError) -> None:
        """Go on with an operation that this device adds up in any order; better than not to train at all."""
        self.optimizers.zero_grad()
        torch.use_deterministic_algorithms(True, warn_only=True)
        what = str(error).partition(f" {_NOT_EXACT}")[0]
        self._on_event("inexact", f"exact resume is off: {what} {_NOT_EXACT} on {self.device}")

    def _shrink(self, inputs: Tensor, targets: Tensor, tried: list[int]) -> None:
        # Called after the except block is left: its traceback holds the activations that have to go.
        self._free()
        batch, size = len(inputs), self.micro_batch
        if size == 1:
            raise OutOfMemoryError(
                f"out of memory on {self.device} with micro-batch {', '.join(map(str, tried))} of a batch of "
                f"{batch} sequences of {inputs.shape[1]} tokens. {self._what_fits(inputs, targets)}"
            )
        self.micro_batch = next(small for small in range(size // 2, 0, -1) if batch % small == 0)
        self._on_event(
            "oom",
            f"no memory for micro-batch {size}; goes on with {self.micro_batch}, the batch stays {batch}",
        )

    def _free(self) -> None:
        self.optimizers.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _what_fits(self, inputs: Tensor, targets: Tensor) -> str:
        """Found by trying: the gradient of one sequence that is halved until it fits."""
        length = inputs.shape[1] // 2
        while length >= SHORTEST:
            fits = self._fits(inputs[:1, :length], targets[:1, :length])
            self._free()
            if fits:
                other = "" if self.model.recompute else ", or set gradient_checkpointing"
                advice = f"take data.seq_len {length}, or a smaller model{other}."
                return f"A sequence of {length} tokens fits: {advice}"
            length //= 2
        return "Not even a short sequence fits: take a smaller model."

    def _fits(self, inputs: Tensor, targets: Tensor) -> bool:
        try:
            with self._autocast():
                # Not the compiled one: each length would be compiled for its own.
                loss = self.model.training_loss(inputs, targets, eager=True)
            loss.backward()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, AUTOCAST[self.precision], enabled=self.precision != "fp32")

    def _update(self) -> None:
        try:
            if self.grokfast:
                self.grokfast.apply(self.optimizers.named)
            self.optimizers.step()
            if self.qk_clip:
                self.qk_clip.clip()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"out of memory on {self.device} while updating the weights: gradient averages and optimiser "
                "moments do not fit beside the model. Take a smaller model or grokfast window."
            ) from error
        self.optimizers.zero_grad()
        self._scaler.update()
        self.skipped_in_row = 0

    def _skip(self, step: int, loss: float, norm: float) -> None:
        self.optimizers.zero_grad()
        overflow = self._scaler.is_enabled() and math.isfinite(loss) and self._scaler.get_scale() > 1.0
        self._scaler.update()
        self.skipped_total += 1
        if overflow:
            # fp16 finds its loss scale this way; it ends by itself, the scale halves each time.
            self._on_event(
                "skipped", f"step {step}: fp16 gradient overflow, loss scale halved, update skipped"
            )
            return
        self.skipped_in_row += 1
        self._on_event("skipped", f"step {step}: loss {loss:g}, gradient norm {norm:g}; update skipped")


def _compiled(model: Decoder) -> Callable[[Tensor, Tensor], Tensor]:
    """Static graphs; no timing-based choices, which would differ from run to run."""
    # Every model and every micro-batch of a long-lived process is one more version of the same code, and
    # torch gives up at 8.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    if model.in_parts:
        model.compile_parts(functools.partial(torch.compile, dynamic=False, fullgraph=True))
        return model.training_loss
    return torch.compile(model.training_loss, dynamic=False, fullgraph=True)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device, or the host for it, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return any(words in text for words in _NO_MEMORY)
