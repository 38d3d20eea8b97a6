"""Routing of parameters, Muon against torch's own, and the combined state."""

from __future__ import annotations

import copy

import pytest
import torch

from forge.config import ModelConfig, TrainingConfig
from forge.models.decoder import Decoder, body_linears
from forge.optim.build import Optimizers, build_optimizer
from forge.optim.muon import Muon, orthogonalise

PICO = ModelConfig(vocab_size=260, d_model=32, n_layers=2, n_heads=2, d_ff=48, max_seq_len=16)
CPU = torch.device("cpu")
COEFFICIENTS = (3.4445, -4.775, 2.0315)


def pico() -> Decoder:
    return Decoder(PICO).initialise(torch.Generator().manual_seed(0))


def set_gradients(model: Decoder, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def groups(optimizers: Optimizers) -> dict[str, dict[str, float]]:
    """Learning rate and weight decay by parameter name and part."""
    names = {id(p): name for name, p in optimizers.named.items()}
    return {
        names[id(p)]: {part: group["lr"], "decay": group["weight_decay"]}
        for part, optimizer in optimizers.parts.items()
        for group in optimizer.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer_and_decay_falls_on_hidden_matrices_only(kind: str) -> None:
    model = pico()
    training = TrainingConfig.model_validate({"optimizer": kind})
    by_name = groups(build_optimizer(model, training, CPU))
    hidden = {f"{name}.weight" for name in body_linears(model)}
    assert by_name.keys() == {name for name, _ in model.named_parameters()}
    for name, settings in by_name.items():
        part = kind if name in hidden else "adamw"
        assert part in settings
        assert settings["decay"] == (training.weight_decay if name in hidden else 0.0)


def test_ratios_multiply_each_groups_own_peak() -> None:
    training = TrainingConfig(optimizer="muon", learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.1)
    optimizers = build_optimizer(pico(), training, CPU)
    for ratio in (0.5, 0.25, 1.0):  # not cumulative
        optimizers.set_lr(ratio)
        optimizers.set_weight_decay(ratio)
        by_name = groups(optimizers)
        assert by_name["blocks.0.attn.q.weight"] == {"muon": 0.02 * ratio, "decay": 0.1 * ratio}
        assert by_name["norm.weight"] == {"adamw": 1e-3 * ratio, "decay": 0.0}


def test_frozen_parameters_are_left_out() -> None:
    model = pico()
    hidden = {id(layer.weight) for layer in body_linears(model).values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in hidden)
    assert set(build_optimizer(model, TrainingConfig(optimizer="muon"), CPU).parts) == {"muon"}
    assert len(build_optimizer(model, TrainingConfig(), CPU).named) == len(hidden)
    with pytest.raises(ValueError, match="no parameter"):
        build_optimizer(model.requires_grad_(False), TrainingConfig(), CPU)


def test_orthogonalised_singular_values_are_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in [(32, 96), (96, 32), (16, 64)]]
    for matrix, solved in zip(matrices, orthogonalise(matrices, COEFFICIENTS, 5, 1e-7), strict=True):
        assert solved.shape == matrix.shape
        values = torch.linalg.svdvals(solved)
        assert values.min() > 0.5
        assert values.max() < 1.5
    assert not orthogonalise([torch.zeros(4, 8)], COEFFICIENTS, 5, 1e-7)[0].any()


def test_batched_muon_follows_torchs_own() -> None:
    """torch iterates in bf16; ours does not on the CPU, hence the tolerance, relative to one step."""
    ours, theirs = pico(), pico()
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    batched = Muon([m.weight for m in body_linears(ours).values()], **settings)  # type: ignore[arg-type]
    plain = torch.optim.Muon([m.weight for m in body_linears(theirs).values()], **settings)  # type: ignore[arg-type]
    start = [m.weight.detach().clone() for m in body_linears(ours).values()]
    for seed in range(4):
        for model, optimizer in ((ours, batched), (theirs, plain)):
            set_gradients(model, seed)
            optimizer.step()
    pairs = zip(body_linears(ours).values(), body_linears(theirs).values(), start, strict=True)
    for a, b, origin in pairs:
        assert (a.weight - b.weight).norm() < 0.02 * (b.weight - origin).norm()
    for a, b in zip(batched.state.values(), plain.state.values(), strict=True):
        torch.testing.assert_close(a["momentum_buffer"], b["momentum_buffer"])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_by_name_goes_on_bit_for_bit_and_is_a_copy(kind: str) -> None:
    training = TrainingConfig.model_validate({"optimizer": kind})
    first, second = pico(), pico()
    a, b = build_optimizer(first, training, CPU), build_optimizer(second, training, CPU)
    for seed in range(3):
        set_gradients(first, seed)
        a.step()
    second.load_state_dict(first.state_dict())
    state = a.state_dict()
    assert set(state["adamw"]) | set(state.get("muon", {})) == set(a.named)
    b.load_state_dict(state)
    kept = copy.deepcopy(state)
    for seed in range(3, 5):
        set_gradients(second, seed)
        b.step()
    for part, tensors in a.state_dict().items():
        for name, moments in tensors.items():
            assert all(torch.equal(moments[key], kept[part][name][key]) for key in moments)
    for seed in range(3, 5):
        set_gradients(first, seed)
        a.step()
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def test_a_state_of_other_optimizers_is_refused() -> None:
    adamw, muon = (
        build_optimizer(pico(), TrainingConfig.model_validate({"optimizer": kind}), CPU)
        for kind in ("adamw", "muon")
    )
    with pytest.raises(ValueError, match="expected"):
        muon.load_state_dict(adamw.state_dict())
    with pytest.raises(ValueError, match="does not train: ghost"):
        adamw.load_state_dict({"adamw": {"ghost": {}}})
