"""QK-clip: shrink what makes queries and keys long, where an attention logit grew too large.

After a step that saw the largest logit S of a head above tau, gamma = tau / S, and queries and keys shrink by
sqrt(gamma) each, so the same inputs give logits of at most tau (Kimi K2, arXiv 2507.20534, algorithm 1). It
changes weights, never scores, and has no state: S belongs to one step.

What has to shrink depends on the model. Without QK-norm it is each head's rows of W_q and W_k. With QK-norm
those rows cancel in the norm and no logit exceeds sqrt(head size) * max|g_q g_k|, whatever the weights; only
the gains can make it large, so they are what shrinks, by the worst head of the layer, since its heads share
them. That is rare: gains start at 1, where the bound of a head of 64 is 8, and tau is 100. A ternary view
follows its latent weights only up to its rounding, so there the bound holds about.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forge.models.attention import Attention
from forge.models.layers import RMSNorm


class QKClip:
    """Watches the attention of a model during a step, and clips after it."""

    def __init__(self, model: nn.Module, tau: float) -> None:
        self.tau = tau
        self._layers = [module for module in model.modules() if isinstance(module, Attention)]
        if not self._layers:
            raise ValueError(f"{type(model).__name__} has no attention to watch")

    def watch(self, on: bool) -> None:
        """Start to look at logits, forgetting what was seen before, or stop."""
        for layer in self._layers:
            layer.watch(on)

    def peak(self) -> Tensor:
        """The largest logit seen, 0-dim, on the model's device."""
        return torch.stack([layer.peak_logit.max() for layer in self._layers]).max()

    @torch.no_grad()
    def clip(self) -> None:
        """Shrink what made a logit larger than tau; the host does not wait for the device."""
        for layer in self._layers:
            root = (self.tau / layer.peak_logit.clamp(min=self.tau)).sqrt()  # (H), 1 where nothing is to do
            if isinstance(layer.q_norm, RMSNorm) and isinstance(layer.k_norm, RMSNorm):
                layer.q_norm.weight.mul_(root.min())
                layer.k_norm.weight.mul_(root.min())
                continue
            for projection in (layer.q, layer.k):
                heads = projection.weight.view(layer.n_heads, -1, projection.in_features)  # (H, D, d_model)
                heads.mul_(root.view(-1, 1, 1))
