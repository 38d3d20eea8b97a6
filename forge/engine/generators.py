"""The generators a phase draws from: made from the session's seed, kept in every checkpoint.

A phase never draws from the global generators: somebody generating text in the same process must not
change a run.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class SeededGenerators:
    """One generator for each library, seeded from (seed, phase position)."""

    def __init__(self, seed: int, position: int) -> None:
        children = np.random.SeedSequence([seed, position]).spawn(3)
        words = [int(child.generate_state(1, np.uint64)[0]) for child in children]
        self.python = random.Random(words[0])
        self.numpy = np.random.Generator(np.random.PCG64(words[1]))
        self.torch = torch.Generator().manual_seed(words[2] >> 1)

    def state_dict(self) -> dict[str, Any]:
        """State of all three."""
        return {
            "python": self.python.getstate(),
            "numpy": self.numpy.bit_generator.state,
            "torch": self.torch.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.python.setstate(state["python"])
        self.numpy.bit_generator.state = state["numpy"]
        self.torch.set_state(state["torch"])
