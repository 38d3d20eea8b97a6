"""Pre-training learns, says what it measured, and is the same run every time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from forge.config import PHASE_NAMES, PipelineConfig
from forge.errors import CorpusError
from forge.phases import PIPELINE, Pretraining
from tests.plain import PlainContext


def test_the_pipeline_is_the_configured_order(pico: PipelineConfig) -> None:
    assert tuple(PIPELINE) == PHASE_NAMES
    for name, make in PIPELINE.items():
        phase = make(pico)
        assert phase.name == name
        assert phase.total_steps(()) == getattr(pico, name).total_steps


def test_it_learns_and_reports_what_it_logged(pico: PipelineConfig, cache: Path) -> None:
    context = PlainContext(pico, 0, cache)
    result = Pretraining(pico).run(context, ())
    losses = context.series["loss"]
    assert list(losses) == list(range(1, 31))
    assert losses[1] == pytest.approx(math.log(280), rel=0.02)
    assert losses[30] < 0.8 * losses[1]
    assert list(context.series["val"]) == [10, 20, 30]
    (model,) = result.models
    (row,) = result.report["rows"]
    assert row["value"] == model.metrics["test_bpb"]
    # Held-out text is like the training text here, and the test split is not the dev split.
    assert row["value"] == pytest.approx(context.series["val"][30], rel=0.1)
    assert row["value"] != context.series["val"][30]
    assert model.card["corpus"]["licence"]
    assert model.tokenizer.is_file()


def test_the_same_seed_is_the_same_run_and_another_is_not(pico: PipelineConfig, cache: Path) -> None:
    def weights(config: PipelineConfig) -> torch.Tensor:
        torch.manual_seed(torch.seed())  # whatever the global generator holds must not matter
        (model,) = Pretraining(config).run(PlainContext(config, 0, cache), ()).models
        return torch.cat([p.detach().flatten() for p in model.module.parameters()])

    first = weights(pico)
    assert torch.equal(first, weights(pico))
    assert not torch.equal(first, weights(pico.model_copy(update={"seed": 1})))


def test_a_corpus_smaller_than_a_batch_is_refused(pico: PipelineConfig, cache: Path) -> None:
    huge = pico.model_copy(update={"pretrain": pico.pretrain.model_copy(update={"batch_size": 4096})})
    with pytest.raises(CorpusError, match="a batch needs"):
        Pretraining(huge).run(PlainContext(huge, 0, cache), ())


def test_text_that_is_read_too_often_is_warned_about(pico: PipelineConfig, cache: Path) -> None:
    context = PlainContext(pico, 0, cache)
    Pretraining(pico).run(context, ())
    assert [kind for kind, _ in context.events] == []
    often = pico.model_copy(update={"pretrain": pico.pretrain.model_copy(update={"steps": 200})})
    context = PlainContext(often, 0, cache)
    Pretraining(often).run(context, ())
    assert [kind for kind, _ in context.events] == ["epochs"]
