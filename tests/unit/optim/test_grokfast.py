"""Grokfast: its gain at both ends of the spectrum, and equality with the plain loop of the paper."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable
from typing import Literal

import pytest
import torch

from forge.config import GrokfastConfig
from forge.optim.grokfast import Grokfast

ALPHA, LAMB = 0.9, 2.0

Filter = Callable[[list[float]], list[float]]


def filtered(signal: list[float], settings: GrokfastConfig) -> list[float]:
    """A one-parameter gradient through our filter."""
    grokfast, parameter = Grokfast(settings), torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    out = []
    for value in signal:
        parameter.grad = torch.tensor([value], dtype=torch.float64)
        grokfast.apply({"w": parameter})
        out.append(float(parameter.grad))
    return out


def low_pass(signal: list[float]) -> list[float]:
    return filtered(signal, GrokfastConfig(kind="ema", alpha=ALPHA, lamb=LAMB))


def high_pass(signal: list[float]) -> list[float]:
    """The wrong sign seen elsewhere: `g + lamb * (g - average)`, average from zero."""
    average, out = 0.0, []
    for value in signal:
        average = ALPHA * average + (1 - ALPHA) * value
        out.append(value + LAMB * (value - average))
    return out


def has_the_gain_of_a_low_pass(filter_: Filter) -> bool:
    """1 + lamb at zero frequency, 1 + lamb (1 - a) / (1 + a) at the highest."""
    constant = filter_([1.0] * 400)[-1]
    alternating = abs(filter_([(-1.0) ** t for t in range(400)])[-1])
    return math.isclose(constant, 1 + LAMB, rel_tol=1e-6) and math.isclose(
        alternating, 1 + LAMB * (1 - ALPHA) / (1 + ALPHA), rel_tol=1e-6
    )


def test_the_filter_amplifies_the_slow_part() -> None:
    assert has_the_gain_of_a_low_pass(low_pass)


def test_the_high_pass_sign_fails_the_gain_test() -> None:
    assert not has_the_gain_of_a_low_pass(high_pass)


def test_the_average_starts_at_the_first_gradient() -> None:
    assert low_pass([0.7])[0] == pytest.approx((1 + LAMB) * 0.7)


def test_the_moving_average_acts_once_its_window_is_full() -> None:
    out = filtered([1.0, 2.0, 3.0, 4.0], GrokfastConfig(kind="ma", window=3, lamb=5.0))
    assert out == pytest.approx([1.0, 2.0, 3.0 + 5 * 2.0, 4.0 + 5 * 3.0])


def oracle_ema(gradients: list[list[torch.Tensor]], settings: GrokfastConfig) -> list[list[torch.Tensor]]:
    averages: list[torch.Tensor] = []
    out = []
    for step in gradients:
        averages = (
            [m * settings.alpha + g * (1 - settings.alpha) for m, g in zip(averages, step, strict=True)]
            if averages
            else [g.clone() for g in step]
        )
        out.append([g + settings.lamb * m for g, m in zip(step, averages, strict=True)])
    return out


def oracle_ma(gradients: list[list[torch.Tensor]], settings: GrokfastConfig) -> list[list[torch.Tensor]]:
    queue: deque[list[torch.Tensor]] = deque(maxlen=settings.window)
    out = []
    for step in gradients:
        queue.append([g.clone() for g in step])
        mean = [sum(column, torch.zeros(())) / len(queue) for column in zip(*queue, strict=True)]
        full = len(queue) == settings.window
        out.append([g + settings.lamb * m * full for g, m in zip(step, mean, strict=True)])
    return out


def some_gradients(steps: int, seed: int = 0) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=generator) for s in [(3, 4), (5,), (2, 2, 2)]] for _ in range(steps)]


def run(grokfast: Grokfast, gradients: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    parameters = {f"p{i}": torch.nn.Parameter(torch.zeros_like(g)) for i, g in enumerate(gradients[0])}
    out = []
    for step in gradients:
        for parameter, gradient in zip(parameters.values(), step, strict=True):
            parameter.grad = gradient.clone()
        grokfast.apply(parameters)
        out.append([p.grad for p in parameters.values() if p.grad is not None])
    return out


@pytest.mark.parametrize("kind", ["ema", "ma"])
def test_it_equals_the_plain_loop(kind: Literal["ema", "ma"]) -> None:
    settings = GrokfastConfig(kind=kind, alpha=0.95, lamb=3.0, window=7)
    gradients = some_gradients(40)
    want = oracle_ema(gradients, settings) if kind == "ema" else oracle_ma(gradients, settings)
    for ours, theirs in zip(run(Grokfast(settings), gradients), want, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["ema", "ma"])
@pytest.mark.parametrize("cut", [0, 1, 6, 9])
def test_it_goes_on_from_its_state_bit_for_bit(kind: Literal["ema", "ma"], cut: int) -> None:
    settings, gradients = GrokfastConfig(kind=kind, window=4), some_gradients(15)
    straight, first, second = Grokfast(settings), Grokfast(settings), Grokfast(settings)
    want = run(straight, gradients)
    if cut:
        run(first, gradients[:cut])
    parameters = {f"p{i}": g for i, g in enumerate(gradients[0])}
    second.load_state_dict(copy.deepcopy(first.state_dict()), parameters)
    for ours, theirs in zip(run(second, gradients[cut:]), want[cut:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", ["ema", "ma"])
def test_a_loaded_state_is_a_copy(kind: Literal["ema", "ma"]) -> None:
    settings, gradients = GrokfastConfig(kind=kind, window=4), some_gradients(6)
    first, second = Grokfast(settings), Grokfast(settings)
    run(first, gradients)
    second.load_state_dict(first.state_dict(), {f"p{i}": g for i, g in enumerate(gradients[0])})
    before = copy.deepcopy(first.state_dict())
    run(second, gradients)
    after = first.state_dict()
    assert all(torch.equal(value, before["average"][name]) for name, value in after["average"].items())


def test_the_first_gradient_is_cloned_and_a_missing_one_left_alone() -> None:
    grokfast = Grokfast(GrokfastConfig(kind="ema", alpha=0.5, lamb=1.0))
    w, frozen = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    for value, want in [(1.0, 2.0), (3.0, 5.0)]:  # averages 1 and 2: an alias would have given 2 and 2.5
        w.grad = torch.tensor([value])
        grokfast.apply({"w": w, "frozen": frozen})
        assert float(w.grad) == want
    assert frozen.grad is None
    grokfast.apply({"frozen": frozen})
