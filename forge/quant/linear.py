"""`QuantizedLinearSTE`: a linear layer that computes ternary and learns in full precision.

The layer shares the latent weight of the layer it replaces, parameter object and name included, so a
checkpoint of the plain model and one of the ternary model are interchangeable, and optimisers built
before the conversion stay valid. The estimator is Bengio et al. 2013, arXiv 1308.3432, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forge.models.decoder import body_linears
from forge.models.layers import Projection
from forge.quant.ternary import int8_view, ternary_view


class _StraightThrough(torch.autograd.Function):
    """Backward of the bridge: the gradient passes the rounding as if it were not there."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _TernaryWeight(_StraightThrough):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, share: Tensor) -> Tensor:
        # lerp, not w + share * (q - w): exactly w at share 0 and exactly q at share 1.
        return torch.lerp(weight, ternary_view(weight), share)


class _Int8Activations(_StraightThrough):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor) -> Tensor:
        return torch.lerp(x.float(), int8_view(x), share).to(x.dtype)


class QuantizedLinearSTE(Projection):
    """Linear layer over the ternary view of a latent weight (out, in), with int8 activations per token.

    Both are mixed in by `share` in 0..1: `w + share * (q(w) - w)`. With `ste_enabled` the gradient
    reaches the latent weight as if nothing were rounded. Without, the rounding of the weight is left
    un-bridged and its scale detached: the gradient that remains is `1 - share` of the true one,
    exactly zero at share 1. The activations' rounding stays bridged in both: without it no gradient at
    all would reach the embeddings and norms before it, and the control would show nothing about weights.
    """

    share: Tensor

    def __init__(
        self, source: nn.Linear, share: Tensor, *, ste_enabled: bool, activation_bits: Literal[8] | None
    ) -> None:
        super().__init__(source.in_features, source.out_features, device="meta")
        self.weight = source.weight
        # A tensor, not a number: a compiled step must not be compiled again when it changes.
        self.register_buffer("share", share, persistent=False)
        self.ste_enabled = ste_enabled
        self.activation_bits = activation_bits

    def prepare(self, x: Tensor) -> Tensor:
        """Quantise the input (..., in), once for all layers that share it."""
        if self.activation_bits is None:
            return x
        prepared: Tensor = _Int8Activations.apply(x, self.share)  # type: ignore[no-untyped-call]
        return prepared

    def project(self, prepared: Tensor) -> Tensor:
        """(..., in) -> (..., out) with the ternary view of the weight."""
        return F.linear(prepared, self.effective_weight())

    def effective_weight(self) -> Tensor:
        """What the input is multiplied with (out, in), in fp32."""
        if self.ste_enabled:
            bridged: Tensor = _TernaryWeight.apply(self.weight, self.share)  # type: ignore[no-untyped-call]
            return bridged
        return torch.lerp(self.weight, ternary_view(self.weight.detach()), self.share)


class QuantisationHandle:
    """Sets the share of quantisation of a converted model."""

    def __init__(self, layers: Sequence[QuantizedLinearSTE]) -> None:
        self._layers = tuple(layers)
        self._share = 1.0

    @property
    def share(self) -> float:
        """Share of quantisation that the next forward pass sees."""
        return self._share

    def set_share(self, share: float) -> None:
        """0: the plain model, exactly; 1: the ternary model, exactly."""
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"the share of quantisation is between 0 and 1, not {share}")
        if share == self._share:
            return
        # One tensor, unless moving the model to another device made copies.
        for buffer in {id(layer.share): layer.share for layer in self._layers}.values():
            buffer.fill_(share)
        self._share = share


def to_ternary(
    model: nn.Module, *, ste_enabled: bool = True, activation_bits: Literal[8] | None = 8
) -> QuantisationHandle:
    """Convert the body of a decoder in place; it starts fully ternary (share 1).

    Raises ValueError where the model has no body to convert.
    """
    found = body_linears(model)
    if not found:
        raise ValueError(f"{type(model).__name__} has no linear layers to make ternary")
    share = torch.ones((), device=next(iter(found.values())).weight.device)
    layers = []
    for name, linear in found.items():
        parent, _, child = name.rpartition(".")
        layer = QuantizedLinearSTE(linear, share, ste_enabled=ste_enabled, activation_bits=activation_bits)
        setattr(model.get_submodule(parent), child, layer)
        layers.append(layer)
    return QuantisationHandle(layers)
