"""Proof of the straight-through estimator (Bengio et al. 2013, arXiv 1308.3432, section 3) in four arms.

Everything but the ternary layers is frozen, so that a loss which falls has fallen through them. A proof that
asks for a gradient which "is not None" asks nothing: without the estimator the gradient is there, and zero.
"""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from forge.config import ModelConfig, TrainingConfig
from forge.models.decoder import Decoder, body_linears
from forge.optim.trainer import Trainer
from forge.quant.linear import QuantizedLinearSTE, to_ternary
from forge.quant.ternary import ternary_view
from forge.validate.job import Job
from forge.validate.result import Figure

FULL, STE, FROZEN, SCALE = "full precision", "STE", "no STE, scale frozen", "no STE, scale differentiable"
ARMS = (FULL, STE, FROZEN, SCALE)

_MODEL = ModelConfig(vocab_size=260, d_model=64, n_layers=2, n_heads=2, d_ff=128, max_seq_len=64)
_EMBEDDING_SCALE = 3.0
"""A frozen head with the usual small weights could hardly tell two tokens apart."""
_BATCH = 16
_STEP_OF_DIFFERENCES = 2e-3
"""Share of the weights' own length; smaller ones drown in fp32."""


@dataclass
class Arm:
    """What one way to train came to, over all seeds."""

    gradients: list[float] = field(default_factory=list)
    """Length of the gradient of each layer's latent weight before the first step."""
    present: list[bool] = field(default_factory=list)
    """What the naïve check says of each layer."""
    cosines: list[float] = field(default_factory=list)
    """Between each layer's gradient and the one with respect to the ternary weight itself."""
    falls: list[float] = field(default_factory=list)
    """By how much the loss fell, in nats a token."""


def prove(job: Job) -> list[Figure]:
    """Train every arm from the same weights on the same text, for several seeds."""
    threads = torch.get_num_threads()
    # So small a model is fastest on one, also beside a run that has the others.
    torch.set_num_threads(1)
    try:
        return _prove(job)
    finally:
        torch.set_num_threads(threads)


def _prove(job: Job) -> list[Figure]:
    seeds, steps = (2, 40) if job.quick else (5, 100)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arms = {name: Arm() for name in ARMS}
    exact: list[float] = []
    slopes: list[float] = []
    for seed in range(seeds):
        text = _text(seed, device)
        true, slope = _true_gradient(_model(seed, device, STE), text)
        slopes.append(slope)
        for number, (name, arm) in enumerate(arms.items()):
            job.tell((seed + number / len(arms)) / seeds, f"seed {seed + 1} of {seeds}, {name}")
            model = _model(seed, device, name)
            found = _gradients(model, text)
            arm.present += [gradient is not None for gradient in found]
            zeros = [torch.zeros_like(each) if g is None else g for g, each in zip(found, true, strict=True)]
            arm.gradients += [float(gradient.norm()) for gradient in zeros]
            arm.cosines += [_cosine(g, each) for g, each in zip(zeros, true, strict=True)]
            if name == STE:
                exact += [_difference(g, each) for g, each in zip(zeros, true, strict=True)]
            arm.falls.append(_train(model, text, steps))
    return _figures(arms, max(exact), slopes)


def _figures(arms: dict[str, Arm], exact: float, slopes: Sequence[float]) -> list[Figure]:
    full, ste, frozen, scale = (arms[name] for name in ARMS)
    layers = len(frozen.present)
    nat = "nat/token"
    return [
        Figure("least gradient of a layer, full precision", min(full.gradients), "", ">", 0.0),
        Figure("least gradient of a layer, STE", min(ste.gradients), "", ">", 0.0),
        Figure("error of the STE gradient against that of the ternary weight", exact, "", "<=", 1e-5),
        Figure("error of that gradient against finite differences",
               max(abs(1 - slope) for slope in slopes), "", "<=", 0.05),
        Figure("largest gradient, no STE, scale frozen", max(frozen.gradients), "", "==", 0.0, control=True),
        Figure("layers there that `grad is not None` passes", sum(frozen.present), f"of {layers}", "==",
               layers, control=True),
        Figure("cosine with the true gradient, no STE, scale differentiable",
               max(map(abs, scale.cosines)), "", "<=", 0.5, control=True),
        Figure("the loss falls by, full precision", min(full.falls), nat, ">", 0.0),
        Figure("the loss falls by, STE", min(ste.falls), nat, ">", 0.0),
        Figure("the loss falls by, no STE, scale frozen", max(map(abs, frozen.falls)), nat, "==", 0.0,
               control=True),
        # It does learn, through one number a layer: what "converges" proves, this passes too.
        Figure("share of that fall without STE, scale differentiable",
               max(map(_share, scale.falls, ste.falls)), "", "<=", 0.6, control=True),
    ]  # fmt: skip


class _ThroughScale(QuantizedLinearSTE):
    """Rounds without a bridge but leaves the scale differentiable: the gradient is one number a layer."""

    def effective_weight(self) -> Tensor:
        """The ternary view, differentiated as it stands."""
        return ternary_view(self.weight)


def _model(seed: int, device: torch.device, arm: str) -> Decoder:
    """The model of an arm, from the same weights in all of them."""
    model = Decoder(_MODEL).initialise(torch.Generator().manual_seed(seed)).to(device)
    with torch.no_grad():
        model.embedding.weight.mul_(_EMBEDDING_SCALE)
    body = {id(linear.weight) for linear in body_linears(model).values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in body)
    if arm != FULL:
        to_ternary(model, ste_enabled=arm == STE)
    if arm == SCALE:
        for name, layer in body_linears(model).items():
            if isinstance(layer, QuantizedLinearSTE):
                parent, _, child = name.rpartition(".")
                made = _ThroughScale(layer, layer.share, ste_enabled=False, activation_bits=8)
                setattr(model.get_submodule(parent), child, made)
    return model


def _text(seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T): bytes of the standard library's source, which is on every machine."""
    source = torch.frombuffer(bytearray(inspect.getsource(statistics).encode()), dtype=torch.uint8).long()
    length = _MODEL.max_seq_len + 1
    starts = torch.randint(len(source) - length, (_BATCH,), generator=torch.Generator().manual_seed(seed))
    rows = torch.stack([source[start : start + length] for start in starts.tolist()]).to(device)
    return rows[:, :-1], rows[:, 1:]


def _gradients(model: Decoder, text: tuple[Tensor, Tensor]) -> list[Tensor | None]:
    """The gradient of every latent weight, and no trace of it left."""
    model.loss(*text).backward()
    found = [linear.weight.grad for linear in body_linears(model).values()]
    model.zero_grad(set_to_none=True)
    return found


def _true_gradient(model: Decoder, text: tuple[Tensor, Tensor]) -> tuple[list[Tensor], float]:
    """The gradient with respect to the ternary weights; and the slope by differences, over that gradient's.

    The differences are taken without the rounding of activations, which no small step could be seen through.
    """
    for layer in body_linears(model).values():
        layer.weight = nn.Parameter(ternary_view(layer.weight.detach()))
        if isinstance(layer, QuantizedLinearSTE):
            layer.effective_weight = lambda weight=layer.weight: weight  # type: ignore[method-assign, misc]
    exact = [gradient for gradient in _gradients(model, text) if gradient is not None]
    for layer in body_linears(model).values():
        if isinstance(layer, QuantizedLinearSTE):
            layer.activation_bits = None
    smooth = [gradient for gradient in _gradients(model, text) if gradient is not None]
    weights = [layer.weight for layer in body_linears(model).values()]
    length = float(torch.cat([gradient.flatten() for gradient in smooth]).norm())
    size = float(torch.cat([weight.detach().flatten() for weight in weights]).norm())
    step = _STEP_OF_DIFFERENCES * size / length
    losses = []
    with torch.no_grad():
        for direction in (step, -2 * step):
            for weight, gradient in zip(weights, smooth, strict=True):
                weight.add_(gradient, alpha=direction)
            losses.append(float(model.loss(*text)))
    return exact, (losses[0] - losses[1]) / (2 * step * length * length)


def _train(model: Decoder, text: tuple[Tensor, Tensor], steps: int) -> float:
    """By how much the loss of the text falls."""
    training = TrainingConfig(
        steps=steps, batch_size=_BATCH, micro_batch=_BATCH, learning_rate=3e-3, weight_decay=0.0,
        schedule="constant", warmup_steps=0,
    )  # fmt: skip
    trainer = Trainer(model, training, text[0].device)
    with torch.no_grad():
        before = float(model.loss(*text))
    for step in range(steps):
        trainer.train_step(step, *text)
    with torch.no_grad():
        return before - float(model.loss(*text))


def _cosine(a: Tensor, b: Tensor) -> float:
    lengths = float(a.norm() * b.norm())
    return float((a * b).sum()) / lengths if lengths > 0 else 0.0


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.inf


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
