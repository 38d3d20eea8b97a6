"""That the memory does something, in miniature; `tests/proofs/test_recall.py` is the claim."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from forge.config import TrainingConfig
from tests.recall import Recall, accuracy, without_memory

TASK = Recall(pairs=2, values=16, gap=12, width=32, layers=1, window=4, chunk=4)
TRAINING = TrainingConfig(
    steps=150, batch_size=32, micro_batch=32, optimizer="muon", learning_rate=1e-2, muon_learning_rate=0.05,
    warmup_steps=20, weight_decay=0.0,
)  # fmt: skip
CHANCE = 1 / 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices as small as these are slower on two threads, on a busy machine many times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.proofs  # half a minute
def test_a_model_with_memory_recalls_what_the_window_alone_cannot_see() -> None:
    inputs, targets = TASK.batch(256, seed=10**9)
    model = TASK.trained(0, True, TRAINING)
    assert accuracy(model, inputs, targets) > 0.6
    without_memory(model, asked_from=2 * TASK.pairs + TASK.gap)
    assert accuracy(model, inputs, targets) < 3 * CHANCE
    assert accuracy(TASK.trained(0, False, TRAINING), inputs, targets) < 3 * CHANCE


def test_a_question_within_the_windows_reach_would_show_nothing() -> None:
    with pytest.raises(AssertionError, match=r"within 1\.5 times"):
        Recall(pairs=2, values=16, gap=5, width=32, layers=1, window=4, chunk=4)
