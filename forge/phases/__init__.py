"""The phases, one module each, in pipeline order; a phase that does not exist yet is not listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forge.config import PipelineConfig
from forge.contract import Phase
from forge.phases.cognate import Cognate
from forge.phases.evomerge import EvoMerge
from forge.phases.forging import Forging
from forge.phases.pretrain import Pretraining

PIPELINE: Mapping[str, Callable[[PipelineConfig], Phase]] = {
    Pretraining.name: Pretraining,
    Cognate.name: Cognate,
    EvoMerge.name: EvoMerge,
    Forging.name: Forging,
}
"""Name to phase, in the order of `forge.config.PHASE_NAMES`."""

__all__ = ["PIPELINE", "Cognate", "EvoMerge", "Forging", "Pretraining"]
