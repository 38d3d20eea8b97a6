"""The merge methods, all of them in one list: what they are called, what they take, where they come from.

A method is a pure function of a group of tensors and its parameters. Adding one is a function and an entry
here; recipes, checks and the documentation follow from the entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from forge.merge import averages, deltas
from forge.merge.blocks import Array
from forge.merge.parameters import Parameter, Values


@dataclass(frozen=True)
class Method:
    """A merge method and what a recipe may say about it."""

    name: str
    title: str
    paper: str
    merge: Callable[..., Array]
    parameters: tuple[Parameter, ...]
    base: Literal["none", "optional", "required"] = "required"
    elementwise: bool = False
    """What becomes of an element depends on that element alone: large tensors can be merged part by part."""
    most_models: int | None = None
    """Models besides the base, where the number is limited; at least one is always needed."""
    check: Callable[[Values], str] = lambda values: ""
    """What is wrong with values that are each valid alone."""

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of a name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def _divides_by_zero(flag: str) -> Callable[[Values], str]:
    def check(values: Values) -> str:
        share = math.fsum(values["weight"])
        return f"the weights add up to {share:g}, so {flag} has no meaning" if abs(share) < 1e-8 else ""

    return lambda values: check(values) if values[flag] else ""


def _spread(values: Values) -> str:
    for density, epsilon in zip(values["density"], values["epsilon"], strict=True):
        if 0.0 < density < 1.0 and not (density - epsilon > 0.0 and density + epsilon < 1.0):
            return f"epsilon {epsilon:g} around density {density:g} leaves the range between 0 and 1"
    return ""


def _weight(doc: str = "How much a model counts.") -> Parameter:
    return Parameter("weight", doc, per_model=True)


_DENSITY = Parameter(
    "density", "Share of a model's differences to the base that is kept.",
    per_model=True, default=1.0, low=0.0, high=1.0,
)  # fmt: skip
_LAMBDA = Parameter("lambda", "Factor for the merged differences.", default=1.0, argument="lamb")
_INT8_MASK = Parameter(
    "int8_mask", "Read for mergekit's sake; no masks are stored here, so it changes nothing.",
    kind="flag", default=False, argument="-",
)  # fmt: skip
_RESCALE_NORM = Parameter(
    "rescale_norm",
    "paper: what is kept is divided by its probability. l1: the tensor's sum of absolute values is restored.",
    kind="choice", default="paper", choices=("paper", "l1"),
)  # fmt: skip


def _delta_parameters(
    *own: Parameter, normalize: bool, rescale: bool | None = None, drops: bool = False
) -> tuple[Parameter, ...]:
    shared: list[Parameter] = [
        _weight(), *own,
        Parameter("normalize", "Divide by the sum of the weights.", kind="flag", default=normalize),
    ]  # fmt: skip
    if rescale is not None:
        doc = "Make up for what was dropped." if drops else "Restore each tensor's sum of absolute values."
        shared.append(Parameter("rescale", doc, kind="flag", default=rescale))
    if drops:
        shared.append(_RESCALE_NORM)
    return (*shared, _LAMBDA, _INT8_MASK)


_EPSILON = Parameter(
    "epsilon", "How far the probability of keeping goes below and above `density`.",
    per_model=True, default=0.15, low=0.0, high=1.0,
)  # fmt: skip
_GAMMA = Parameter(
    "gamma", "Share of the largest differences that is left out.",
    per_model=True, default=0.01, low=0.0, high=1.0,
)  # fmt: skip

_ALL: Sequence[Method] = (
    Method(
        "linear", "Linear", "https://arxiv.org/abs/2203.05482", averages.linear,
        (_weight(), Parameter("normalize", "Divide by the sum of the weights.", kind="flag", default=True)),
        base="none", elementwise=True, check=_divides_by_zero("normalize"),
    ),
    Method(
        "slerp", "SLERP", "https://doi.org/10.1145/325165.325242", averages.slerp,
        (Parameter("t", "0 is the base model, 1 the other one.", low=0.0, high=1.0),),
        most_models=1,
    ),
    Method(
        "multislerp", "Multi-SLERP", "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
        averages.multislerp,
        (
            _weight(),
            Parameter("normalize_weights", "Divide the weights by their sum.", kind="flag", default=True),
            Parameter("eps", "Below this a length counts as zero.", default=1e-8, low=0.0),
        ),
        base="optional", check=_divides_by_zero("normalize_weights"),
    ),
    Method(
        "task_arithmetic", "Task arithmetic", "https://arxiv.org/abs/2212.04089", deltas.task_arithmetic,
        _delta_parameters(normalize=False), elementwise=True,
    ),
    Method(
        "ties", "TIES", "https://arxiv.org/abs/2306.01708", deltas.ties,
        _delta_parameters(_DENSITY, normalize=True, rescale=False),
    ),
    Method(
        "dare_linear", "DARE", "https://arxiv.org/abs/2311.03099", deltas.dare_linear,
        _delta_parameters(_DENSITY, normalize=False, rescale=True, drops=True),
    ),
    Method(
        "dare_ties", "DARE with TIES", "https://arxiv.org/abs/2311.03099", deltas.dare_ties,
        _delta_parameters(_DENSITY, normalize=False, rescale=True, drops=True),
    ),
    Method(
        "della", "DELLA", "https://arxiv.org/abs/2406.11617", deltas.della,
        _delta_parameters(_DENSITY, _EPSILON, normalize=True, rescale=True, drops=True), check=_spread,
    ),
    Method(
        "della_linear", "Linear DELLA", "https://arxiv.org/abs/2406.11617", deltas.della_linear,
        _delta_parameters(_DENSITY, _EPSILON, normalize=False, rescale=True, drops=True), check=_spread,
    ),
    Method(
        "breadcrumbs", "Model Breadcrumbs", "https://arxiv.org/abs/2312.06795", deltas.breadcrumbs,
        _delta_parameters(_DENSITY, _GAMMA, normalize=False, rescale=False),
    ),
    Method(
        "passthrough", "Passthrough", "https://huggingface.co/alpindale/goliath-120b", averages.passthrough,
        (Parameter("scale", "Factor for the tensor.", per_model=True, default=None),),
        base="none", elementwise=True, most_models=1,
    ),
)  # fmt: skip

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""Every method by the name that a recipe uses, which is mergekit's."""
