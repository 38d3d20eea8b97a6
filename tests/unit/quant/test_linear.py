"""The straight-through layer: what the forward sees, where the gradient goes, what is shared."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from forge.config import ModelConfig
from forge.models.decoder import Decoder, body_linears
from forge.quant.linear import QuantisationHandle, QuantizedLinearSTE, to_ternary
from forge.quant.ternary import dequantise, int8_view, ternary_codes

PICO = ModelConfig(vocab_size=260, d_model=32, n_layers=2, n_heads=2, d_ff=48, max_seq_len=16)


def pico() -> Decoder:
    model = Decoder(PICO).initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.embedding.weight.mul_(10)
    return model


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randint(260, (2, 2, 12), generator=torch.Generator().manual_seed(seed))
    return x[0], x[1]


def latent_gradients(model: Decoder) -> list[torch.Tensor]:
    model.zero_grad()
    model.loss(*batch()).backward()
    grads = [layer.weight.grad for layer in body_linears(model).values()]
    return [torch.zeros(1) if grad is None else grad for grad in grads]


def test_share_0_is_the_plain_model_and_share_1_the_stored_one_exactly() -> None:
    plain, model, packed = pico(), pico(), pico()
    handle = to_ternary(model, activation_bits=None)
    for linear in body_linears(packed).values():
        linear.weight.data = dequantise(*ternary_codes(linear.weight.data))
    x, _ = batch()
    assert torch.equal(model(x), packed(x))
    handle.set_share(0.0)
    assert torch.equal(model(x), plain(x))


def test_a_layer_computes_with_codes_on_both_sides() -> None:
    linear = nn.Linear(32, 8, bias=False)
    layer = QuantizedLinearSTE(linear, torch.ones(()), ste_enabled=True, activation_bits=8)
    x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), int8_view(x) @ dequantise(*ternary_codes(linear.weight)).T)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_share_between_mixes_linearly(share: float) -> None:
    model = pico()
    handle = to_ternary(model)
    handle.set_share(share)
    layer = model.get_submodule("blocks.0.attn.q")
    assert isinstance(layer, QuantizedLinearSTE)
    w = layer.weight
    want = w + share * (dequantise(*ternary_codes(w)) - w)
    torch.testing.assert_close(layer.effective_weight(), want)


def test_gradient_reaches_latent_weights_through_the_estimator() -> None:
    model = pico()
    to_ternary(model, ste_enabled=True)
    assert all(grad.abs().sum() > 0 for grad in latent_gradients(model))


def test_without_the_estimator_latent_gradients_are_exactly_zero_and_the_rest_still_learns() -> None:
    model = pico()
    handle = to_ternary(model, ste_enabled=False)
    assert all((grad == 0).all() for grad in latent_gradients(model))
    assert model.embedding.weight.grad is not None
    assert model.embedding.weight.grad.abs().sum() > 0
    handle.set_share(0.9)  # a share below 1 leaks: why the control runs at 1 throughout
    assert all(grad.abs().sum() > 0 for grad in latent_gradients(model))


def test_the_estimators_gradient_is_that_of_the_linear_map_it_computed() -> None:
    layer = QuantizedLinearSTE(
        nn.Linear(16, 4, bias=False), torch.ones(()), ste_enabled=True, activation_bits=8
    )
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    out_grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    layer(x).backward(out_grad)
    assert x.grad is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(x.grad, out_grad @ dequantise(*ternary_codes(layer.weight)))
    torch.testing.assert_close(layer.weight.grad, out_grad.T @ int8_view(x.detach()))


def test_parameters_and_their_names_stay() -> None:
    plain = pico()
    before = dict(plain.named_parameters())
    to_ternary(plain)
    after = dict(plain.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert plain.state_dict().keys() == pico().state_dict().keys()


def test_every_body_matrix_and_nothing_else_is_converted() -> None:
    model = pico()
    to_ternary(model)
    converted = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinearSTE)}
    assert converted == set(body_linears(pico()))
    assert len(converted) == 14


def test_a_copy_of_a_ternary_model_keeps_its_own_share() -> None:
    model = pico()
    handle = to_ternary(model)
    twin = copy.deepcopy(model)
    handle.set_share(0.0)
    assert not torch.equal(model(batch()[0]), twin(batch()[0]))


def test_the_handle_reaches_layers_whose_shared_tensor_was_split_by_a_move() -> None:
    model = pico()
    handle = to_ternary(model)
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinearSTE)]
    layers[3].share = layers[3].share.clone()
    handle.set_share(0.0)
    assert all(float(layer.share) == 0.0 for layer in layers)
    assert handle.share == 0.0


def test_bad_requests_are_refused() -> None:
    handle = to_ternary(pico())
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            handle.set_share(share)
    with pytest.raises(ValueError, match="no linear layers"):
        to_ternary(nn.Embedding(3, 3))


@pytest.mark.parametrize("ste_enabled", [True, False])
def test_one_graph_serves_every_share(ste_enabled: bool) -> None:
    model = pico()
    handle: QuantisationHandle = to_ternary(model, ste_enabled=ste_enabled)
    loss = torch.compile(model.loss, backend="aot_eager", dynamic=False, fullgraph=True)
    x, y = batch()
    loss(x, y).backward()
    with torch.compiler.set_stance("fail_on_recompile"):
        for share in (0.0, 0.3, 1.0):
            handle.set_share(share)
            compiled, eager = loss(x, y), model.loss(x, y)
            torch.testing.assert_close(compiled, eager)
