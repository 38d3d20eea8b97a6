"""Measurements of a model: one evaluator for curves, gates and reports."""

from forge.evals.answers import Examination, Score
from forge.evals.bits import HeldOut, gap_recovered
from forge.evals.bootstrap import Interval, mean_interval, paired_interval

__all__ = [
    "Examination",
    "HeldOut",
    "Interval",
    "Score",
    "gap_recovered",
    "mean_interval",
    "paired_interval",
]
