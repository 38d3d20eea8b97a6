"""Routing of parameters, Muon against torch's own, and the combined state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from forge.config import GrokfastConfig, MemoryConfig, ModelConfig, RecursionConfig, TrainingConfig
from forge.models.decoder import Decoder, body_linears
from forge.optim.build import Optimizers, build_optimizer
from forge.optim.grokfast import Grokfast
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


def newton_schulz_oracle(matrix: Tensor) -> Tensor:
    """The iteration acts on singular values alone: five times a s + b s^3 + c s^5, in fp64, by an SVD."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()  # the Frobenius norm
    a, b, c = COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    solved: Tensor = u * s @ vh
    return solved.float()


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (24, 24), (1, 7)])
def test_newton_schulz_in_fp32_is_the_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrices = list(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))
    for matrix, solved in zip(matrices, orthogonalise(matrices, COEFFICIENTS, 5, 1e-7), strict=True):
        torch.testing.assert_close(solved, newton_schulz_oracle(matrix), rtol=1e-4, atol=2e-5)


def test_cubic_newton_schulz_fails_the_oracle() -> None:
    """The control: the specification's three steps of 1.5 X - 0.5 X X^T X."""
    matrix = torch.randn(32, 96, generator=torch.Generator().manual_seed(0))
    x = matrix / matrix.norm()
    for _ in range(3):
        x = 1.5 * x - 0.5 * x @ x.T @ x
    assert torch.linalg.svdvals(x).min() < 0.4
    assert not torch.allclose(x, newton_schulz_oracle(matrix), atol=0.05)


def test_muon_is_torchs_own_on_its_bf16_path() -> None:
    ours, theirs = pico(), pico()
    batched = Muon([m.weight for m in body_linears(ours).values()], lr=0.02, momentum=0.9, weight_decay=0.1)
    batched.iterate_in = torch.bfloat16
    plain = torch.optim.Muon(
        [m.weight for m in body_linears(theirs).values()], lr=0.02, momentum=0.9, weight_decay=0.1
    )
    for seed in range(4):
        for model, optimizer in ((ours, batched), (theirs, plain)):
            set_gradients(model, seed)
            optimizer.step()
    for a, b in zip(body_linears(ours).values(), body_linears(theirs).values(), strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=1e-7)


def test_muon_with_grokfast_is_the_plain_loop() -> None:
    """g + lamb EMA(g), then momentum with Nesterov, Newton-Schulz, scale, decay: in this order."""
    model, lr, decay, beta, alpha, lamb = pico(), 0.02, 0.1, 0.9, 0.8, 2.0
    training = TrainingConfig(
        optimizer="muon", muon_learning_rate=lr, weight_decay=decay, muon_momentum=beta,
        grokfast=GrokfastConfig(alpha=alpha, lamb=lamb),
    )  # fmt: skip
    assert training.grokfast is not None
    optimizers, grokfast = build_optimizer(model, training, CPU), Grokfast(training.grokfast)
    name = "blocks.0.ffn.up.weight"  # 48 x 32
    weight = optimizers.named[name].detach().clone()
    average, momentum = None, torch.zeros_like(weight)
    for seed in range(5):
        set_gradients(model, seed)
        gradient = optimizers.named[name].grad
        assert gradient is not None
        g = gradient.clone()
        average = g if average is None else alpha * average + (1 - alpha) * g
        g = g + lamb * average
        momentum = beta * momentum + (1 - beta) * g
        direction = newton_schulz_oracle((1 - beta) * g + beta * momentum)
        weight = (1 - lr * decay) * weight - lr * (48 / 32) ** 0.5 * direction
        grokfast.apply(optimizers.named)
        optimizers.step()
    torch.testing.assert_close(optimizers.named[name].detach(), weight, rtol=1e-4, atol=1e-5)


def test_muon_gets_the_matrices_of_the_memory_and_nothing_else_of_it() -> None:
    config = PICO.model_copy(
        update={
            "memory": MemoryConfig(depth=2, n_heads=2, chunk=4),
            "recursion": RecursionConfig(halting="ponder"),
            "persistent_tokens": 2,
        }
    )
    optimizers = build_optimizer(Decoder(config), TrainingConfig(optimizer="muon"), CPU)
    by_name = groups(optimizers)
    muon = {
        name.split("attn.memory.")[1] for name in by_name if "attn.memory" in name and "muon" in by_name[name]
    }
    assert muon == {"q.weight", "k.weight", "v.weight"}
    others = {"halting.bias", "blocks.0.attn.memory.first.0", "blocks.1.attn.memory.rates.weight",
              "blocks.0.attn.memory.conv.weight", "blocks.0.attn.persistent.weight"}  # fmt: skip
    assert all(by_name[name] == {"adamw": 3e-3, "decay": 0.0} for name in others)


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
