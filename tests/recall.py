"""Associative recall: pairs of a key and a value, something else, then the keys again in another order.

Pairs are drawn anew for every sequence, so no weight can know them, and every value is asked for from further
away than stacked windows reach: what answers is what the memory has learned from this one text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forge.config import MemoryConfig, ModelConfig, TrainingConfig
from forge.models.decoder import IGNORED, Decoder
from forge.models.memory import NeuralMemory
from forge.optim.trainer import Trainer

FIRST, FILLERS = 8, 64


@dataclass(frozen=True)
class Recall:
    """A task, and the model that has to do it."""

    pairs: int
    values: int
    """As many keys, and as many values."""
    gap: int
    """Tokens between the last pair and the first question."""
    width: int
    layers: int
    window: int
    chunk: int

    def __post_init__(self) -> None:
        reach = 1.5 * self.layers * self.window
        assert self.gap >= reach, (
            f"a question {self.gap} tokens away is within 1.5 times the windows' reach {reach}"
        )

    def batch(self, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T); only the answers count."""
        generator = torch.Generator().manual_seed(seed)
        shape = (size, self.pairs)
        keys = torch.rand(size, self.values, generator=generator).argsort(-1)[:, : self.pairs] + FIRST
        answers = torch.randint(self.values, shape, generator=generator) + FIRST + self.values
        fill = torch.randint(FILLERS, (size, self.gap), generator=generator) + FIRST + 2 * self.values
        order = torch.rand(*shape, generator=generator).argsort(-1)
        told = torch.stack((keys, answers), -1).flatten(1)
        asked = torch.stack((keys.gather(1, order), answers.gather(1, order)), -1).flatten(1)
        text = torch.cat((told, fill, asked), 1)
        inputs, targets = text[:, :-1], torch.full_like(text[:, 1:], IGNORED)
        places = slice(2 * self.pairs + self.gap, None, 2)
        targets[:, places] = text[:, 1:][:, places]
        return inputs, targets

    def model(self, seed: int, with_memory: bool) -> Decoder:
        """A Titans-MAG model, or the same without its memory."""
        memory = MemoryConfig(n_heads=2, chunk=self.chunk) if with_memory else None
        config = ModelConfig(
            vocab_size=max(260, FIRST + 2 * self.values + FILLERS), d_model=self.width, n_layers=self.layers,
            n_heads=2, d_ff=2 * self.width, max_seq_len=4 * self.pairs + self.gap, window=self.window,
            persistent_tokens=4, memory=memory,
        )  # fmt: skip
        return Decoder(config).initialise(torch.Generator().manual_seed(seed))

    def trained(self, seed: int, with_memory: bool, training: TrainingConfig) -> Decoder:
        """The model after its steps, each on a batch of its own."""
        model = self.model(seed, with_memory)
        trainer = Trainer(model, training, torch.device("cpu"))
        for step in range(training.steps):
            trainer.train_step(step, *self.batch(training.batch_size, 100_000 * seed + step))
        return model


@torch.no_grad()
def accuracy(model: Decoder, inputs: Tensor, targets: Tensor) -> float:
    """Share of the answers that are right."""
    counts = targets != IGNORED
    return float((model(inputs).argmax(-1) == targets)[counts].float().mean())


def without_memory(model: Decoder, asked_from: int) -> None:
    """Every memory reads nothing from a token on: what was written is gone when it is asked for."""
    for module in model.modules():
        if isinstance(module, NeuralMemory):
            module.register_forward_hook(lambda memory, inputs, out: (_emptied(out[0], asked_from), out[1]))


def _emptied(read: Tensor, start: int) -> Tensor:
    empty = read.clone()
    empty[:, start:] = 0.0
    return empty
