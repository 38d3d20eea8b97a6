"""Measurements of a model: one evaluator for curves, gates and reports."""

from forge.evals.bits import HeldOut, gap_recovered

__all__ = ["HeldOut", "gap_recovered"]
