"""Bits per byte on held-out text: the language figure that does not depend on the tokenizer.

Evaluation never draws a random number and leaves gradients and mode of the model as they were, so a look at
the dev split cannot change a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from forge.contract import Precision
from forge.data import Split, TokenData, eval_windows
from forge.models.decoder import Decoder
from forge.optim.trainer import AUTOCAST

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class HeldOut:
    """The held-out splits of a corpus, and how a model is measured on them."""

    shards: TokenData
    seq_len: int
    """Tokens a window; at most the model's `max_seq_len`."""
    device: torch.device
    precision: Precision = "fp32"
    """Autocast type, as in training."""
    corpus: str | None = None
    """One corpus of a mix, to measure on it alone; none measures on all."""
    steps: int | None = None
    """Supervision steps of a recursion after which it is measured; none takes them all."""
    poll: Callable[[], None] = lambda: None
    """Called before each batch; what it raises ends the measurement, which then has to be done again."""

    @torch.no_grad()
    def bits_per_byte(self, model: Decoder, split: Split, max_tokens: int | None = None) -> float:
        """Total nats / ln 2 / total bytes over disjoint windows of a split; see `eval_windows`.

        Args:
            model: a decoder on `device`.
            split: `dev` for curves and gates, `test` for a phase's report only.
            max_tokens: score at most so many tokens, the same ones every time; none scores all.

        Returns:
            Bits per byte; NaN or infinite when the model's loss is.
        """
        nats, n_bytes = 0.0, 0
        for windows, size in eval_windows(self.shards, split, self.seq_len, max_tokens, corpus=self.corpus):
            self.poll()
            tokens = torch.from_numpy(windows).to(self.device)  # (N, seq_len + 1)
            with torch.autocast(self.device.type, AUTOCAST[self.precision], enabled=self.precision != "fp32"):
                nats += float(model.loss(tokens[:, :-1], tokens[:, 1:], reduction="sum", steps=self.steps))
            n_bytes += size
        # A split is never without bytes: an empty document is no document.
        return nats / math.log(2) / n_bytes

    @torch.no_grad()
    def bits_by_window(
        self, model: Decoder, split: Split, max_tokens: int | None = None
    ) -> NDArray[np.float64]:
        """The same, one number for each window, so that two models can be compared window by window.

        Each is the window's bits over the mean bytes of a window: their mean is `bits_per_byte`.
        """
        nats: list[float] = []
        n_bytes = 0
        for windows, size in eval_windows(self.shards, split, self.seq_len, max_tokens, corpus=self.corpus):
            self.poll()
            tokens = torch.from_numpy(windows).to(self.device)  # (N, seq_len + 1)
            with torch.autocast(self.device.type, AUTOCAST[self.precision], enabled=self.precision != "fp32"):
                each = model.loss(tokens[:, :-1], tokens[:, 1:], reduction="none", steps=self.steps)
            nats += each.double().sum(dim=1).tolist()
            n_bytes += size
        return np.array(nats) / math.log(2) / (n_bytes / len(nats))


def gap_recovered(full_precision: float, post_training: float, forged: float) -> float | None:
    """Share of the loss between post-training quantisation and full precision that training won back.

    1 is full precision, 0 is no better than rounding alone; none when rounding alone cost nothing.
    """
    gap = post_training - full_precision
    return (post_training - forged) / gap if gap > 0 else None
