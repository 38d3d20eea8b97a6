"""The b1.58 definition: against an oracle, against gguf, and with the thresholds that must fail."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.errors import TrainingError
from forge.quant.ternary import (
    absmean,
    dequantise,
    int8_view,
    quantise_activations,
    stored_scale,
    ternary_codes,
    ternary_view,
)

Codes = Callable[[torch.Tensor], torch.Tensor]


def drawn(seed: int, rows: int = 24, columns: int = 256, scale: float = 0.02) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale


def torchao_codes(weight: torch.Tensor) -> torch.Tensor:
    """`torchao.prototype.quantized_training.bitnet`, the formula of its 0.18.0 written out."""
    scale = weight.float().abs().mean()
    return (weight.float() / scale.clip(1e-5)).round().clip(-1, 1).to(torch.int8)


def threshold_codes(share: float) -> Codes:
    """Zero below `share` of the mean magnitude, else the sign: the definitions seen elsewhere."""

    def codes(weight: torch.Tensor) -> torch.Tensor:
        return (weight.sign() * (weight.abs() > share * weight.abs().mean())).to(torch.int8)

    return codes


def agrees(codes: Codes) -> bool:
    """The definition test: equal to the oracle on every random tensor."""
    tensors = [
        drawn(seed, rows, scale=scale) for seed, rows, scale in [(0, 8, 1e-3), (1, 24, 1), (2, 96, 40)]
    ]
    return all(torch.equal(codes(weight), torchao_codes(weight)) for weight in tensors)


def test_codes_equal_an_independent_implementation() -> None:
    assert agrees(lambda weight: ternary_codes(weight)[0])


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_other_thresholds_fail_the_definition_test(share: float) -> None:
    assert not agrees(threshold_codes(share))


def test_half_of_the_mean_is_the_threshold_away_from_ties() -> None:
    assert agrees(threshold_codes(0.5))


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.TQ1_0, gguf.GGMLQuantizationType.TQ2_0])
@pytest.mark.parametrize("seed", range(5))
def test_gguf_stores_codes_and_scale_without_loss(kind: gguf.GGMLQuantizationType, seed: int) -> None:
    codes, scale = ternary_codes(drawn(seed, scale=10.0 ** (seed - 3)))
    values = dequantise(codes, scale).numpy()
    back = dequantize(quantize(values, kind), kind)
    np.testing.assert_array_equal(back, values)


def test_ties_round_to_even_and_the_code_uses_the_unrounded_scale() -> None:
    weight = torch.tensor([0.5, -0.5, 1.5, -1.5])  # mean magnitude exactly 1
    assert ternary_codes(weight)[0].tolist() == [0, 0, 1, -1]
    # gamma is 1.001953125 and stored as 1: with the stored one 0.5009 would become 1
    weight = torch.tensor([0.5009, 1.503006])
    assert float(ternary_codes(weight)[1]) == 1.0
    assert ternary_codes(weight)[0].tolist() == [0, 1]


@given(gamma=st.floats(1e-5, 60_000))
def test_a_stored_scale_is_exact_in_fp16_and_bf16_and_close(gamma: float) -> None:
    scale = stored_scale(torch.tensor(gamma))
    assert scale == scale.half().float() == scale.bfloat16().float()
    assert float(scale) == pytest.approx(gamma, rel=2**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_training_view_is_what_is_stored_in_every_autocast_type(dtype: torch.dtype) -> None:
    weight = drawn(3)
    stored = dequantise(*ternary_codes(weight))
    assert torch.equal(ternary_view(weight).to(dtype).float(), stored)


def test_quantising_twice_changes_no_code() -> None:
    codes, scale = ternary_codes(drawn(4))
    again, _ = ternary_codes(dequantise(codes, scale))
    assert torch.equal(again, codes)


def test_a_zero_tensor_is_zeros_with_the_least_scale() -> None:
    codes, scale = ternary_codes(torch.zeros(4, 4))
    assert not codes.any()
    assert float(scale) == pytest.approx(1e-5, rel=2**-8)
    assert torch.equal(ternary_view(torch.zeros(4, 4)), torch.zeros(4, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_damaged_weight_is_refused_and_shows_in_a_training_forward(bad: float) -> None:
    weight = drawn(5, 2, 4)
    weight[1, 2] = bad
    with pytest.raises(TrainingError, match=r"shape \(2, 4\).*1 values are NaN or infinite"):
        ternary_codes(weight)
    assert ternary_view(weight).isnan().all()


def test_a_scale_beyond_fp16_is_refused() -> None:
    with pytest.raises(TrainingError, match="mean magnitude 7e"):
        ternary_codes(torch.full((2, 2), 70_000.0))


def test_gamma_is_over_the_whole_tensor() -> None:
    weight = torch.cat((torch.ones(1, 8), torch.full((1, 8), 0.01)))
    assert float(absmean(weight)) == pytest.approx(0.505)
    assert ternary_codes(weight)[0].tolist() == [[1] * 8, [0] * 8]


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-4, 4))
def test_activations_are_within_half_a_step_per_token(seed: int, exponent: int) -> None:
    x = drawn(seed, 3, 16, 10.0**exponent)
    codes, step = quantise_activations(x)
    assert step.shape == (3, 1)
    assert codes.abs().amax(dim=1).tolist() == [127] * 3
    assert torch.equal(int8_view(x), codes * step)
    assert ((int8_view(x) - x).abs() <= 0.5001 * step).all()


def test_a_token_does_not_see_its_neighbours() -> None:
    x = drawn(6, 4, 16)
    louder = x.clone()
    louder[2] *= 1000
    same = [0, 1, 3]
    assert torch.equal(int8_view(louder)[same], int8_view(x)[same])
    assert torch.equal(int8_view(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert int8_view(torch.tensor([[1.0, float("nan")], [1.0, 2.0]])).isnan().any(dim=1).tolist() == [
        True,
        False,
    ]
