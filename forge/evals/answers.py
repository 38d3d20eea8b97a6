"""Exact match on questions with answers: what a model would say, without letting it speak.

An answer is right when each of its tokens, and the end of its line, is the likeliest after what stands
before: that is what greedy generation writes, found in one forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from forge.data import Split, load_tokenizer
from forge.data.questions import ANSWER
from forge.data.tokenizer import EOS_ID
from forge.evals.bits import HeldOut
from forge.evals.bootstrap import Interval, mean_interval
from forge.models.decoder import Decoder
from forge.optim.trainer import AUTOCAST

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 32
CHANCE_ITEMS = 2_000
"""Items of the train split that are looked at for the commonest answer."""

Place = tuple[int, int]
"""First token of an answer in its document, and the one after its last."""


@dataclass(frozen=True)
class Score:
    """How a model did on every item of a corpus."""

    items: NDArray[np.float64]
    """Share of the answers of each item that are right, in the order of the items."""
    chance: float
    """Share of the answers that the commonest answer of the train split gets right."""

    @property
    def corrected(self) -> NDArray[np.float64]:
        """The items on a scale where chance is 0 and all right is 1."""
        # Where the commonest answer is always right there is nothing to know.
        return (self.items - self.chance) / max(1.0 - self.chance, 1e-9)

    def interval(self) -> Interval:
        """The chance-corrected accuracy."""
        return mean_interval(self.corrected)


@dataclass(frozen=True)
class _Item:
    tokens: NDArray[np.int64]
    """The end of the document before, then the document."""
    places: Sequence[Place]
    answers: Sequence[bytes]


class Examination:
    """The questions of `held_out.corpus` in one split, or the first `max_items` of them, for any model."""

    def __init__(self, held_out: HeldOut, split: Split, max_items: int | None = None) -> None:
        """Find the answers in the tokens.

        Raises:
            ValueError: the corpus has no question in this split.
        """
        self._held_out = held_out
        self._items = list(_items(held_out, split, max_items))
        if not self._items:
            raise ValueError(f"{held_out.corpus} has no question in {split}")
        commonest = _commonest(held_out)
        answers = [answer for item in self._items for answer in item.answers]
        self.chance = sum(answer == commonest for answer in answers) / len(answers)

    def ask(self, model: Decoder) -> Score:
        """Put every question to a model; one that is longer than its positions counts as not answered."""
        right: list[float] = []
        for start in range(0, len(self._items), BATCH):
            self._held_out.poll()
            right += self._right(model, self._items[start : start + BATCH])
        return Score(np.array(right), self.chance)

    @torch.no_grad()
    def _right(self, model: Decoder, items: Sequence[_Item]) -> list[float]:
        """Share of the answers of each item that are right."""
        longest = model.config.max_seq_len
        length = min(max(len(item.tokens) for item in items), longest + 1)
        # What stands behind an item cannot change what comes before it.
        padded = np.full((len(items), length), EOS_ID, dtype=np.int64)
        for row, item in zip(padded, items, strict=True):
            row[: len(item.tokens)] = item.tokens[:length]
        held_out = self._held_out
        tokens = torch.from_numpy(padded).to(held_out.device)  # (N, T)
        device, precision = held_out.device.type, held_out.precision
        with torch.autocast(device, AUTOCAST[precision], enabled=precision != "fp32"):
            logits: Tensor = model(tokens[:, :-1], steps=held_out.steps)
        hit = (logits.argmax(-1) == tokens[:, 1:]).cpu().numpy()  # (N, T - 1)
        return [
            float(np.mean([last <= longest and hit[n, first:last].all() for first, last in item.places]))
            for n, item in enumerate(items)
        ]


def _items(held_out: HeldOut, split: Split, max_items: int | None) -> Iterator[_Item]:
    data = held_out.shards
    token_bytes = load_tokenizer(data.tokenizer).token_bytes
    shard = data.tokens(split, held_out.corpus)
    ends = np.flatnonzero(shard == EOS_ID)
    found = 0
    for before, end in pairwise(ends):
        if found == max_items:
            return
        tokens = np.asarray(shard[before:end], dtype=np.int64)
        places, answers = _places([token_bytes[token] for token in tokens[1:]])
        if places:
            found += 1
            yield _Item(tokens, places, answers)


def _places(pieces: Sequence[bytes]) -> tuple[list[Place], list[bytes]]:
    """Where the answers of a document lie in its tokens, given as bytes, and the answers."""
    text = b"".join(pieces)
    starts = np.cumsum([0, *map(len, pieces)])  # byte at which each token begins
    marker = ANSWER.encode()
    places: list[Place] = []
    answers: list[bytes] = []
    at = 0
    for line in text.splitlines(keepends=True):
        if line.startswith(marker):
            # A token that straddles an edge belongs to the answer.
            first = int(np.searchsorted(starts, at + len(marker), side="right")) - 1
            last = int(np.searchsorted(starts, at + len(line), side="left"))
            places.append((first, last))
            answers.append(line[len(marker) :].strip())
        at += len(line)
    return places, answers


def _commonest(held_out: HeldOut) -> bytes | None:
    """The answer that a model without a thought would give."""
    counts = Counter(answer for item in _items(held_out, "train", CHANCE_ITEMS) for answer in item.answers)
    return min(counts, key=lambda answer: (-counts[answer], answer), default=None)
