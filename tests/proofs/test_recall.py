"""Proof of the neural memory: it recalls what stacked windows cannot reach, and it alone does.

Three seeds; every arm of a seed starts from the same generator and sees the same batches.
"""

from __future__ import annotations

import pytest
import torch

from forge.config import TrainingConfig
from tests.recall import Recall, accuracy, without_memory

pytestmark = pytest.mark.proofs

TASK = Recall(pairs=16, values=64, gap=32, width=64, layers=2, window=8, chunk=16)
TRAINING = TrainingConfig(
    steps=600, batch_size=32, micro_batch=32, optimizer="muon", learning_rate=5e-3, muon_learning_rate=0.03,
    warmup_steps=20, weight_decay=0.0,
)  # fmt: skip
CHANCE = 1 / 64


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sixteen_fresh_pairs_are_recalled_from_beyond_the_windows(seed: int) -> None:
    inputs, targets = TASK.batch(256, seed=10**9 + seed)
    model = TASK.trained(seed, True, TRAINING)
    recalled = accuracy(model, inputs, targets)
    by_pairs = {pairs: _accuracy_with(model, pairs, seed) for pairs in (2, 4, 8, 16)}
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    shuffled = accuracy(model, inputs[order], targets[order])
    without_memory(model, asked_from=2 * TASK.pairs + TASK.gap)
    zeroed = accuracy(model, inputs, targets)
    window = accuracy(TASK.trained(seed, False, TRAINING), inputs, targets)
    print(
        f"\nseed {seed}: recalled {recalled:.3f}, memory zeroed at the question {zeroed:.3f}, window only "
        f"{window:.3f}, chance {CHANCE:.3f}; by number of pairs {by_pairs}"
    )
    assert recalled >= 0.9
    assert shuffled == pytest.approx(recalled, abs=1e-3)
    assert zeroed < 3 * CHANCE
    assert window < 3 * CHANCE


def _accuracy_with(model: torch.nn.Module, pairs: int, seed: int) -> float:
    """Of the same model on fewer pairs; what they leave is filled."""
    task = Recall(pairs, TASK.values, TASK.gap + 4 * (TASK.pairs - pairs), 64, 2, 8, TASK.chunk)
    return round(accuracy(model, *task.batch(256, seed=2 * 10**9 + seed)), 3)  # type: ignore[arg-type]
