"""A pico model over a text that can be learned in seconds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from forge.config import PipelineConfig, load_config
from forge.contract import LoadedModel
from forge.phases import Pretraining
from tests.plain import PlainContext, handed_on

WORDS = ("forge", "makes", "small", "models", "and", "never", "loses", "a", "run", "of", "them", "at", "all")
PICO = (
    "model.vocab_size=280", "model.d_model=32", "model.d_ff=48", "model.n_layers=1", "model.n_heads=2",
    "model.max_seq_len=32", "data.seq_len=16", "pretrain.steps=30", "pretrain.batch_size=8",
    "pretrain.micro_batch=8", "pretrain.warmup_steps=2", "pretrain.eval_every=10", "forging.steps=20",
    "forging.batch_size=8", "forging.micro_batch=8", "forging.warmup_steps=2", "forging.eval_every=10",
    "forging.lambda_ramp_steps=5", "data.dev_fraction=0.2", "data.test_fraction=0.2",
)  # fmt: skip


@pytest.fixture(scope="session")
def pico(tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    """The configuration, its corpus written."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(12):
        words = random.Random(number).choices(WORDS, k=200)
        (folder / f"{number}.txt").write_text(" ".join(words) + "\n", "utf-8")
    return load_config("tiny", [*PICO, f"data.corpus=text:{folder}/*.txt"])


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards, made once a worker."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def parent(pico: PipelineConfig, cache: Path) -> LoadedModel:
    """A pre-trained pico model; no test may change it."""
    torch.set_num_threads(1)
    return handed_on(Pretraining(pico).run(PlainContext(pico, 0, cache), ()), "parent")
