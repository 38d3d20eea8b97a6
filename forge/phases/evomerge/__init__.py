"""EvoMerge: one model from three of one base, by merging and evolution and without a training step."""

from forge.phases.evomerge.phase import EvoMerge

__all__ = ["EvoMerge"]
