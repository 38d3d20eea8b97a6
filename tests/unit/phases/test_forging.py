"""Forging trains latent weights through the rounding, and nothing else does; the control is never rounded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from forge.config import PipelineConfig
from forge.contract import LoadedModel, PhaseResult
from forge.errors import TrainingError
from forge.models.decoder import Decoder, body_linears
from forge.phases import Forging
from forge.phases.forging import ForgeTrainer, share_of_zeros
from forge.quant.linear import QuantizedLinearSTE
from forge.quant.ternary import ternary_view
from tests.plain import PlainContext, figures


def changed(config: PipelineConfig, **changes: Any) -> PipelineConfig:
    """The configuration with other settings of Forging."""
    return config.model_copy(update={"forging": config.forging.model_copy(update=changes)})


def forge(config: PipelineConfig, cache: Path, parent: LoadedModel) -> tuple[PhaseResult, PlainContext]:
    """One whole phase."""
    context = PlainContext(config, 1, cache)
    return Forging(config).run(context, [parent]), context


def frozen(config: PipelineConfig, *, ste: bool) -> PipelineConfig:
    """Only what becomes ternary may learn."""
    return changed(
        config,
        freeze_full_precision=True,
        ste_enabled=ste,
        lambda_ramp_steps=0,
        weight_decay=0.0,
        control=False,
    )


def test_the_report_holds_every_arm(pico: PipelineConfig, cache: Path, parent: LoadedModel) -> None:
    result, context = forge(pico, cache, parent)
    measured = figures(result)
    assert all(isinstance(value, float) for value in measured.values())
    rows = {row["label"].strip(): row["value"] for row in result.report["rows"]}
    assert rows["post-training ternary"] == measured["post_training"]
    assert rows["forged ternary"] == measured["forged"] == result.models[0].metrics["test_bpb"]
    assert rows["gap recovered"] == pytest.approx(100 * measured["gap_recovered"], abs=0.1)
    assert measured["forged"] < measured["post_training"]
    # Step 0 is the parent, rounded.
    assert list(context.series["val"]) == [0, 10, 20]
    assert [context.series["lambda"][step] for step in (1, 3, 6, 20)] == [0.0, 0.4, 1.0, 1.0]


def test_what_is_handed_on_is_latent_and_fits_the_plain_model(
    pico: PipelineConfig, cache: Path, parent: LoadedModel
) -> None:
    before = {name: value.clone() for name, value in parent.module.state_dict().items()}
    result, _ = forge(pico, cache, parent)
    (model,) = result.models
    latent = model.module.state_dict()
    assert latent.keys() == before.keys()
    body = [name for name in latent if name.endswith(("q.weight", "down.weight"))]
    assert all(latent[name].unique().numel() > 3 for name in body)
    assert model.parents == {parent.id: 1.0}
    assert model.card["quantisation"] == {"scheme": "ternary-b1.58", "activation_bits": 8}
    # The parent belongs to the caller: neither arm may have touched it.
    assert all(torch.equal(value, before[name]) for name, value in parent.module.state_dict().items())


def test_with_the_rest_frozen_only_the_estimator_learns(
    pico: PipelineConfig, cache: Path, parent: LoadedModel
) -> None:
    through, context = forge(frozen(pico, ste=True), cache, parent)
    flat, blocked = forge(frozen(pico, ste=False), cache, parent)
    assert figures(through)["forged"] < figures(through)["post_training"]
    assert min(context.series["grad_norm"].values()) > 0
    assert figures(flat)["forged"] == figures(flat)["post_training"]
    assert set(blocked.series["grad_norm"].values()) == {0.0}
    assert len(set(blocked.series["val"].values())) == 1


def test_without_a_control_the_gap_is_measured_against_the_parent(
    pico: PipelineConfig, cache: Path, parent: LoadedModel
) -> None:
    with_control = figures(forge(pico, cache, parent)[0])
    result, _ = forge(changed(pico, control=False), cache, parent)
    alone = figures(result)
    assert alone["full_precision"] is None
    # The control shares nothing with the student: leaving it out changes nothing else.
    assert alone["forged"] == with_control["forged"]
    gap = alone["post_training"] - alone["before"]
    assert alone["gap_recovered"] == pytest.approx((alone["post_training"] - alone["forged"]) / gap)
    assert not any("same steps" in row["label"] for row in result.report["rows"])


def test_without_quantisation_the_student_is_the_control(
    pico: PipelineConfig, cache: Path, parent: LoadedModel
) -> None:
    plain = changed(pico, quantization_aware=False, ste_enabled=False)
    result, context = forge(plain, cache, parent)
    measured = figures(result)
    assert measured["forged"] == measured["full_precision"]
    assert measured["post_training"] == measured["before"]
    assert measured["gap_recovered"] is None
    assert set(context.series["lambda"].values()) == {0.0}
    assert "quantisation" not in result.models[0].card


def test_a_trainer_continues_from_its_state(pico: PipelineConfig, cache: Path, parent: LoadedModel) -> None:
    assert isinstance(parent.module, Decoder)
    context = PlainContext(pico, 1, cache)
    generator = torch.Generator().manual_seed(0)
    batches = torch.randint(0, 280, (4, 8, 17), generator=generator)

    def steps(trainer: ForgeTrainer, which: range) -> ForgeTrainer:
        for step in which:
            trainer.train_step(step, batches[step, :, :-1], batches[step, :, 1:])
        return trainer

    straight = steps(ForgeTrainer(parent.module, pico.forging, context), range(4))
    first = steps(ForgeTrainer(parent.module, pico.forging, context), range(2))
    second = ForgeTrainer(parent.module, pico.forging, context)
    second.load_state_dict(first.state_dict())
    steps(second, range(2, 4))
    assert straight.control is not None
    assert second.control is not None
    for one, other in ((straight.student, second.student), (straight.control, second.control)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_student_computes_with_ternary_weights(
    pico: PipelineConfig, cache: Path, parent: LoadedModel
) -> None:
    result, _ = forge(pico, cache, parent)
    student = result.models[0].module
    layers = body_linears(student).values()
    assert layers
    for layer in layers:
        assert isinstance(layer, QuantizedLinearSTE)
        assert torch.equal(layer.effective_weight(), ternary_view(layer.weight))
        assert layer.effective_weight().unique().numel() <= 3
    assert isinstance(student, Decoder)
    assert 0.1 < share_of_zeros(student) < 0.6
    with torch.no_grad():
        next(iter(body_linears(student).values())).weight[0, 0] = torch.inf
    # No reason to end the phase: `ctx.steps` goes back from a divergence.
    assert math.isnan(share_of_zeros(student))


@pytest.mark.parametrize("count", [0, 2])
def test_it_takes_one_model(pico: PipelineConfig, cache: Path, parent: LoadedModel, count: int) -> None:
    with pytest.raises(TrainingError, match="takes one model"):
        Forging(pico).run(PlainContext(pico, 1, cache), [parent] * count)


def test_it_takes_a_decoder(pico: PipelineConfig, cache: Path, parent: LoadedModel) -> None:
    other = LoadedModel("x", torch.nn.Linear(2, 2), parent.config, parent.tokenizer)
    with pytest.raises(TrainingError, match="not a Linear"):
        Forging(pico).run(PlainContext(pico, 1, cache), [other])
