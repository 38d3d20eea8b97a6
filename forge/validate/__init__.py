"""Proofs that a user can run on their own machine: figures, thresholds and verdicts (`forge validate`).

Importing this costs nothing: what a proof needs is imported when it runs.
"""

from forge.validate.proofs import PROOFS, Proof, find
from forge.validate.result import Figure, Result, Verdict

__all__ = ["PROOFS", "Figure", "Proof", "Result", "Verdict", "find"]
