"""Every method: what must hold of it whatever the weights, and its definition once more in plain float64."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge.errors import MergeError
from forge.merge import METHODS, Group, Method
from forge.merge.blocks import Array
from tests.unit.merge.rig import (
    drawn,
    elect,
    group,
    largest,
    plain_multislerp,
    plain_slerp,
    wide,
)

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32 - 1)
weights = st.lists(st.floats(0.125, 2.0), min_size=3, max_size=3)
densities = st.floats(0.05, 1.0)

DELTA = [name for name, method in METHODS.items() if method.base == "required" and name != "slerp"]
RANDOM = ["dare_linear", "dare_ties", "della", "della_linear"]
SUMS = [
    "linear",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
]


def values_of(method: Method, models: int, **given_values: Any) -> dict[str, Any]:
    """Arguments of a method: what is given, else the default, else one half."""
    values: dict[str, Any] = {}
    for parameter in method.parameters:
        if parameter.keyword == "-":
            continue
        default = 0.5 if not isinstance(parameter.default, int | float | str) else parameter.default
        value = given_values.get(parameter.keyword, None if parameter.name == "scale" else default)
        values[parameter.keyword] = (
            list(value) if isinstance(value, Sequence) and not isinstance(value, str)
            else [value] * models if parameter.per_model else value
        )  # fmt: skip
    return values


def merged(name: str, of: Group, **given_values: Any) -> Array:
    """A method's result; shape, format and inputs are looked at each time."""
    before = [tensor.copy() for tensor in of.tensors]
    result = METHODS[name].merge(of, **values_of(METHODS[name], len(of.tensors), **given_values))
    assert result.dtype == np.float32
    assert result.shape == of.shape
    for tensor, copy in zip(of.tensors, before, strict=True):
        np.testing.assert_array_equal(tensor, copy)
        assert not np.shares_memory(result, tensor)
    return result


def close(a: Any, b: Any, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


@quick
@given(seed=seeds, share=st.lists(st.floats(0.125, 2.0), min_size=2, max_size=2))
@pytest.mark.parametrize("name", METHODS)
def test_a_model_merged_with_itself_is_itself(name: str, seed: int, share: list[float]) -> None:
    model, method = drawn(seed), METHODS[name]
    count = 1 if method.most_models == 1 else 2
    of = group(*[model] * count, base=None if method.base == "none" else model)
    close(merged(name, of, weight=share[:count], density=0.5), model)


@quick
@given(seed=seeds)
@pytest.mark.parametrize("name", DELTA)
def test_no_difference_gives_the_base_exactly(name: str, seed: int) -> None:
    base = drawn(seed)
    result = merged(name, group(base.copy(), base.copy(), base=base), density=0.3, lamb=1.7)
    np.testing.assert_array_equal(result, base)


@quick
@given(seed=seeds, share=weights)
@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].most_models is None and n not in RANDOM])
def test_the_order_of_the_models_does_not_matter(name: str, seed: int, share: list[float]) -> None:
    base = None if METHODS[name].base == "none" else drawn(seed)
    models = [drawn(seed + i + 1) for i in range(3)]
    density = [0.2, 0.5, 0.9]
    order = [2, 0, 1]
    one = merged(name, group(*models, base=base), weight=share, density=density)
    other = merged(
        name,
        group(*[models[i] for i in order], base=base),
        weight=[share[i] for i in order],
        density=[density[i] for i in order],
    )
    # Where a sum is all but zero its sign may depend on the order of adding: a few entries at most.
    assert np.count_nonzero(np.abs(one - other) > 1e-5) <= 1


@quick
@given(seed=seeds, share=weights)
@pytest.mark.parametrize("name", ["dare_linear", "della_linear", "breadcrumbs"])
def test_density_one_is_task_arithmetic(name: str, seed: int, share: list[float]) -> None:
    of = group(*[drawn(seed + i + 1) for i in range(3)], base=drawn(seed))
    one = merged(name, of, weight=share, density=1.0, lamb=0.7)
    np.testing.assert_array_equal(one, merged("task_arithmetic", of, weight=share, lamb=0.7))


@quick
@given(seed=seeds, share=weights)
@pytest.mark.parametrize("normalize", [True, False])
def test_density_one_leaves_only_the_election(seed: int, share: list[float], normalize: bool) -> None:
    of = group(*[drawn(seed + i + 1) for i in range(3)], base=drawn(seed))
    one = merged("ties", of, weight=share, density=1.0, normalize=normalize)
    for name in ("dare_ties", "della"):
        np.testing.assert_array_equal(one, merged(name, of, weight=share, density=1.0, normalize=normalize))


@quick
@given(seed=seeds)
@pytest.mark.parametrize("name", RANDOM)
def test_what_is_drawn_follows_the_seed_the_name_and_the_model(name: str, seed: int) -> None:
    base, model = drawn(seed), drawn(seed + 1)

    def kept(label: str, draw: int) -> Array:
        return merged(name, group(model, base=base, name=label, seed=draw), weight=1.0, density=0.5)

    np.testing.assert_array_equal(kept("w", 7), kept("w", 7))
    assert (kept("w", 7) != kept("w", 8)).any()
    assert (kept("w", 7) != kept("v", 7)).any()
    # The same differences in two places of the list are dropped independently.
    both = merged(
        name, group(model, model, base=base), weight=0.5, density=0.5, rescale=False, normalize=False
    )
    halves = np.round((both - base) / (model - base) * 2)
    assert set(np.unique(halves)) == {0.0, 1.0, 2.0}


@quick
@given(seed=seeds, share=weights)
def test_linear_is_the_weighted_mean(seed: int, share: list[float]) -> None:
    models = [drawn(seed + i) for i in range(3)]
    total = sum(w * m.astype(np.float64) for w, m in zip(share, models, strict=True))
    close(merged("linear", group(*models), weight=share), total / sum(share))
    close(merged("linear", group(*models), weight=share, normalize=False), total)


@quick
@given(seed=seeds, t=st.floats(0, 1), nearness=st.sampled_from([0.0, 0.01, 0.1, 1.0]))
def test_slerp_is_shoemakes(seed: int, t: float, nearness: float) -> None:
    a = drawn(seed)
    b = a + nearness * drawn(seed + 1) if nearness < 1 else drawn(seed + 1)
    expected = plain_slerp(a.astype(np.float64), b.astype(np.float64), t)
    close(merged("slerp", group(b, base=a), t=t), expected)


def test_slerp_of_opposite_and_empty_directions_stays_finite() -> None:
    a = drawn(0)
    close(merged("slerp", group(-a, base=a), t=0.25), 0.5 * a)
    zero = np.zeros_like(a)
    close(merged("slerp", group(a, base=zero), t=0.5), math.sin(math.pi / 4) * a)


def test_slerp_keeps_the_length_that_linear_loses() -> None:
    a, b = drawn(0, (4000,)), drawn(1, (4000,))
    length = np.linalg.norm(a)
    assert abs(np.linalg.norm(merged("slerp", group(b, base=a), t=0.5)) / length - 1) < 0.03
    assert np.linalg.norm(merged("linear", group(a, b))) / length < 0.75


@quick
@given(seed=seeds, share=weights, with_base=st.booleans())
def test_multislerp_is_its_three_steps(seed: int, share: list[float], with_base: bool) -> None:
    models, base = [drawn(seed + i + 1) for i in range(3)], drawn(seed)
    of = group(*models, base=base if with_base else None)
    origin = base if with_base else np.zeros_like(base)
    expected = origin + plain_multislerp(wide(models, origin), share)
    close(merged("multislerp", of, weight=share), expected, 1e-5)


def test_multislerp_of_what_cancels() -> None:
    a, base = drawn(0), drawn(1)
    close(merged("multislerp", group(a, -a)), np.zeros_like(a))
    close(merged("multislerp", group(base + a, base - a, base=base)), base, 1e-5)
    turned = [np.array([math.cos(x), math.sin(x)], np.float32) for x in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    with pytest.raises(MergeError, match=r"w: .*cancel"):
        merged("multislerp", group(*turned), weight=1.0)


@quick
@given(seed=seeds, share=weights, lamb=st.floats(-2, 2), normalize=st.booleans())
def test_task_arithmetic_adds_differences(
    seed: int, share: list[float], lamb: float, normalize: bool
) -> None:
    models, base = [drawn(seed + i + 1) for i in range(3)], drawn(seed)
    added = sum(w * d for w, d in zip(share, wide(models, base), strict=True))
    expected = base + lamb * added / (sum(share) if normalize else 1.0)
    of = group(*models, base=base)
    close(merged("task_arithmetic", of, weight=share, lamb=lamb, normalize=normalize), expected)


@quick
@given(seed=seeds, share=weights, density=densities, lamb=st.floats(-2, 2), normalize=st.booleans())
def test_ties_trims_elects_and_averages(
    seed: int, share: list[float], density: float, lamb: float, normalize: bool
) -> None:
    models, base = [drawn(seed + i + 1) for i in range(3)], drawn(seed)
    count = max(1, int(density * base.size))
    deltas = wide(models, base)
    weighted = [w * d * largest(d, count) for w, d in zip(share, deltas, strict=True)]
    expected = base + lamb * elect(weighted, share, normalize)
    of = group(*models, base=base)
    result = merged("ties", of, weight=share, density=density, lamb=lamb, normalize=normalize)
    assert np.count_nonzero(np.abs(result - expected) > 1e-5) <= 1


def test_ties_elects_by_mass_and_not_by_votes() -> None:
    base = np.zeros(1, np.float32)
    one, two, three = (np.array([value], np.float32) for value in (-0.1, -0.1, 0.9))
    assert merged("ties", group(one, two, three, base=base), weight=1.0)[0] == np.float32(0.9)


def test_ties_on_one_model_keeps_its_signs() -> None:
    # The specification's `trimmed * sign(trimmed)` would make every difference positive.
    base, model = drawn(0), drawn(1)
    close(merged("ties", group(model, base=base), weight=1.0), model)


@quick
@given(seed=seeds, density=st.floats(0.1, 0.9), gamma=st.floats(0.0, 0.3), lamb=st.floats(-2, 2))
def test_breadcrumbs_leaves_out_both_ends(seed: int, density: float, gamma: float, lamb: float) -> None:
    model, base = drawn(seed), drawn(seed + 1)
    (delta,) = wide([model], base)
    kept, cut = int(density * base.size), int(gamma * base.size)
    top = min(cut, base.size - kept)
    mask = largest(delta, top + kept) & ~largest(delta, top)
    result = merged(
        "breadcrumbs", group(model, base=base), weight=1.0, density=density, gamma=gamma, lamb=lamb
    )
    close(result, base + lamb * delta * mask)


@quick
@given(seed=seeds, density=st.floats(0.1, 0.9))
@pytest.mark.parametrize("name", ["ties", "breadcrumbs", *RANDOM])
def test_l1_rescaling_restores_the_sum_of_absolute_values(name: str, seed: int, density: float) -> None:
    base, model = np.zeros((6, 50), np.float32), drawn(seed)
    epsilon = min(density, 1 - density) / 2
    of = group(model, base=base, seed=seed)
    result = merged(
        name,
        of,
        weight=1.0,
        density=density,
        rescale=True,
        rescale_norm="l1",
        normalize=False,
        epsilon=epsilon,
    )
    assert np.abs(result).sum() == pytest.approx(np.abs(model).sum(), rel=1e-4)
    assert (result == 0).any()


@pytest.mark.parametrize("name", RANDOM)
def test_what_is_dropped_is_made_up_for_on_average(name: str) -> None:
    base, model = np.zeros((64, 2000), np.float32), np.abs(drawn(0, (64, 2000))) + 1
    result = merged(name, group(model, base=base), weight=1.0, density=0.3, normalize=False)
    assert result.mean() == pytest.approx(model.mean(), rel=0.02)
    without = merged(name, group(model, base=base), weight=1.0, density=0.3, normalize=False, rescale=False)
    assert without.mean() < 0.4 * model.mean()


def test_passthrough_copies_and_scales() -> None:
    model = drawn(0)
    np.testing.assert_array_equal(merged("passthrough", group(model)), model)
    np.testing.assert_array_equal(merged("passthrough", group(model), scale=[-2.0]), -2 * model)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (1, 1), (5,), (2, 3, 4)])
def test_every_shape_has_a_result(name: str, shape: tuple[int, ...]) -> None:
    method = METHODS[name]
    models = [drawn(i, shape) for i in range(1 if method.most_models == 1 else 2)]
    of = group(*models, base=None if method.base == "none" else drawn(9, shape))
    assert np.isfinite(merged(name, of, density=0.5)).all()


@pytest.mark.parametrize("name", [name for name in DELTA if name != "task_arithmetic"])
def test_density_zero_keeps_nothing(name: str) -> None:
    base = drawn(0)
    np.testing.assert_array_equal(merged(name, group(drawn(1), base=base), density=0.0), base)


@pytest.mark.parametrize("name", [*DELTA, "slerp"])
def test_without_a_base_there_is_no_result(name: str) -> None:
    with pytest.raises(MergeError, match=r"w: .*base"):
        merged(name, group(drawn(0)))


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_list_declares_what_the_function_takes(method: Method) -> None:
    accepted = list(inspect.signature(method.merge).parameters.values())[1:]
    declared = {p.keyword: p for p in method.parameters if p.keyword != "-"}
    assert {p.name for p in accepted} == declared.keys()
    for parameter in accepted:
        if parameter.default is not inspect.Parameter.empty:
            assert declared[parameter.name].default == parameter.default
    assert method.paper.startswith("https://")
    assert inspect.getdoc(method.merge)
    assert all(parameter.doc for parameter in method.parameters)
