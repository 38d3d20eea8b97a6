"""Schedules: learning rate, weight decay and share of quantisation as pure functions of the step.

Nothing here has state, so resuming at a step is the same as having come there.
"""

from __future__ import annotations

import math

from forge.config import ForgeTrainingConfig, TrainingConfig


def lr_ratio(step: int, training: TrainingConfig) -> float:
    """Learning rate at `step` (0 … steps-1) as a share of its peak, in 0..1.

    Rises linearly over the warm-up, reaches 1, and ends at `final_lr_ratio` on the last step; `wsd`
    (Hu et al. 2024, arXiv 2404.06395, section 4) holds the peak until the last `decay_fraction` of the steps.
    """
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    if training.schedule == "constant":
        return 1.0
    start = training.warmup_steps
    if training.schedule == "wsd":
        start = max(start, training.steps - max(1, round(training.decay_fraction * training.steps)))
    progress = _progress(step, start, training.steps - 1)
    if training.schedule == "cosine":
        progress = 0.5 * (1.0 - math.cos(math.pi * progress))
    return 1.0 - (1.0 - training.final_lr_ratio) * progress


def weight_decay_ratio(step: int, training: TrainingConfig) -> float:
    """1 until `weight_decay_until` of the steps are done, then 0: late decay holds ternary weights back."""
    return 1.0 if step < training.weight_decay_until * training.steps else 0.0


def lambda_at(step: int, forging: ForgeTrainingConfig) -> float:
    """Share of quantisation at `step`: from `lambda_start` linearly to 1 over the ramp.

    Without the straight-through estimator it is 1 throughout: any less would leak a gradient past the
    rounding, and the control would train.
    """
    if not forging.quantization_aware:
        return 0.0
    if not forging.ste_enabled or step >= forging.lambda_ramp_steps:
        return 1.0
    return forging.lambda_start + (1.0 - forging.lambda_start) * step / forging.lambda_ramp_steps


def _progress(step: int, start: int, end: int) -> float:
    """0 up to `start`, 1 from `end` on, linear between."""
    if step >= end:
        return 1.0
    return 0.0 if step <= start else (step - start) / (end - start)
