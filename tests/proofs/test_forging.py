"""Proof of Forging: training through the estimator beats rounding, and training without it.

One full-precision parent per seed; every arm starts from it and sees the same batches for the same steps.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from forge.config import PipelineConfig, load_config
from forge.contract import LoadedModel
from forge.phases import Forging, Pretraining
from tests.plain import PlainContext, figures, handed_on

SEEDS = (0, 1, 2)
PARENTS: dict[int, LoadedModel] = {}

pytestmark = pytest.mark.proofs


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards, made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    """One of the three."""
    return int(request.param)


def config_of(seed: int, *changes: str) -> PipelineConfig:
    """The `tiny` preset, as `make run` runs it."""
    return load_config("tiny", [f"seed={seed}", *changes])


def parent_of(seed: int, cache: Path) -> LoadedModel:
    """The pre-trained model of a seed."""
    if seed not in PARENTS:
        config = config_of(seed)
        PARENTS[seed] = handed_on(Pretraining(config).run(PlainContext(config, 0, cache), ()), "pretrain")
    return PARENTS[seed]


def forge(seed: int, cache: Path, *changes: str) -> tuple[dict[str, float], PlainContext]:
    """Figures of one arm, and what it logged."""
    config = config_of(seed, *changes)
    context = PlainContext(config, 1, cache)
    return figures(Forging(config).run(context, [parent_of(seed, cache)])), context


def test_forging_recovers_the_gap_and_only_through_the_estimator(seed: int, cache: Path) -> None:
    forged, _ = forge(seed, cache)
    without, _ = forge(seed, cache, "forging.ste_enabled=false", "forging.control=false")
    slow, _ = forge(seed, cache, "forging.learning_rate=1e-5", "forging.control=false")
    gap = forged["post_training"] - forged["full_precision"]
    recovered, no_ste, low_rate = (
        100 * (forged["post_training"] - arm["forged"]) / gap for arm in (forged, without, slow)
    )
    print(
        f"\nseed {seed}, bits/byte on the test split: full precision {forged['before']:.4f}, with the same "
        f"extra steps {forged['full_precision']:.4f}, post-training ternary {forged['post_training']:.4f}, "
        f"forged {forged['forged']:.4f}, without STE {without['forged']:.4f}, at 1e-5 {slow['forged']:.4f}\n"
        f"gap {gap:.4f}; recovered {recovered:.1f} %, without STE {no_ste:.1f} %, at 1e-5 {low_rate:.1f} %"
    )
    assert without["post_training"] == forged["post_training"]
    assert forged["forged"] < forged["post_training"]
    assert recovered >= 80
    assert recovered - no_ste >= 15
    # The bound of PHASES.md at equal width; post-training quantisation has to break it, else it says nothing.
    assert forged["forged"] <= forged["full_precision"] + 0.06
    assert forged["post_training"] > forged["full_precision"] + 0.06
    # The learning rate that the specification asked for cannot do it.
    assert low_rate < 80


def test_with_the_rest_frozen_only_the_estimator_learns(seed: int, cache: Path) -> None:
    frozen = (
        "forging.freeze_full_precision=true",
        "forging.control=false",
        # Decay moves weights without any gradient.
        "forging.weight_decay=0",
        "forging.steps=60",
        "forging.lambda_ramp_steps=0",
        "forging.eval_every=20",
    )
    learned, through = forge(seed, cache, *frozen)
    flat, blocked = forge(seed, cache, *frozen, "forging.ste_enabled=false")
    print(
        f"\nseed {seed}, rest frozen, bits/byte: post-training {flat['post_training']:.4f}, with STE "
        f"{learned['forged']:.4f}, without {flat['forged']:.4f}"
    )
    assert learned["forged"] < learned["post_training"] - 0.01
    assert flat["forged"] == flat["post_training"]
    assert len(set(blocked.series["val"].values())) == 1
    assert set(blocked.series["grad_norm"].values()) == {0.0}
    assert min(through.series["grad_norm"].values()) > 0


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(2)
