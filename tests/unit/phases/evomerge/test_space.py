"""Every vector is a point, every point a recipe, and the start is the uniform average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from forge.config import EvoMergeConfig
from forge.merge import Parents, check_recipe
from forge.phases.evomerge import founders
from forge.phases.evomerge.search import diversity
from forge.phases.evomerge.space import LEAST_DENSITY, Document, Space, Vector
from tests.unit.merge.rig import pico, write_model

MODELS = ("a", "b", "c")
CONFIG = EvoMergeConfig(groups=2)
GAINS = np.array([[0.1, -0.2, 0.3], [-0.1, -0.1, -0.3], [0.0, 0.2, 0.1]])


@pytest.fixture
def parents(tmp_path: Path) -> Parents:
    return Parents({name: write_model(tmp_path / name, pico(seed)) for seed, name in enumerate("oabc")})


@pytest.fixture
def space(parents: Parents) -> Space:
    return Space.of("o", MODELS, parents.stack, CONFIG, seed=1)


def flat(parents: Parents, recipe: Sequence[Document]) -> Vector:
    return np.concatenate([tensor.reshape(-1) for _, tensor in parents.compose(recipe)]).astype(np.float64)


def test_groups_are_of_consecutive_layers_and_the_rest_is_one_more(space: Space) -> None:
    assert space.groups == (("model.layers.0.", "model.layers.1."), ("model.layers.2.",))
    assert space.size == 3 * 3 * 2
    assert Space.of("o", MODELS, None, CONFIG, 1).groups == ((), ())


def test_the_search_starts_at_the_average(space: Space, parents: Parents) -> None:
    average = flat(parents, founders.average(space))
    assert np.allclose(flat(parents, space.recipe(space.start.tolist())), average, atol=1e-6)


def test_each_number_of_a_genome_moves_its_group_alone(space: Space, parents: Parents) -> None:
    before = dict(parents.compose(space.recipe(space.start.tolist())))
    moved = {0: set[str](), 1: set[str](), 2: set[str]()}
    for place in range(space.size):
        genome = space.start
        genome[place] -= 0.2
        after = dict(parents.compose(space.recipe(genome.tolist())))
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed, place
        moved[place // 6] |= changed
    assert {name.split(".")[2] for name in moved[0]} == {"0", "1"}
    assert {name.split(".")[2] for name in moved[1]} == {"2"}
    assert moved[2] == {"model.embed_tokens.weight", "model.norm.weight"}


def test_no_vector_lies_outside(space: Space) -> None:
    weights, densities = space.values(np.linspace(-4, 4, space.size).tolist())
    assert weights.min() >= 0
    assert LEAST_DENSITY <= densities.min() <= densities.max() <= 1
    genome = space.start
    genome[1], genome[3] = 1.25, 0.75
    assert space.values(genome.tolist())[1][0, :2].tolist() == [0.75, 0.75]
    generator = np.random.default_rng(0)
    drawn = np.array([space.values(space.drawn(generator).tolist())[0] for _ in range(200)])
    assert drawn.mean() == pytest.approx(1 / 3, abs=0.02)


def test_how_much_a_parent_counts_is_a_share(space: Space) -> None:
    genome = np.ones((3, 3, 2))
    genome[:, 1, 0] = 2.0
    assert space.shares(genome.reshape(-1).tolist()) == {"a": 0.25, "b": 0.5, "c": 0.25}


def test_every_founder_is_a_recipe_and_near_its_parents(space: Space, parents: Parents) -> None:
    every = [*founders.plain(space, ("b", "a", "c")), *founders.combinations(space, GAINS)]
    assert len(every) == 9 + 8
    size = np.linalg.norm(flat(parents, founders.parent("a")))
    for name, recipe in every:
        for document in recipe:
            check_recipe({key: value for key, value in document.items() if key != "name"})
        # The public reference returned weights of norm near zero, and one model under four names.
        assert np.linalg.norm(flat(parents, recipe)) == pytest.approx(size, rel=0.2), name


@pytest.mark.parametrize("which", [founders.plain, founders.combinations])
def test_no_two_founders_are_one(
    space: Space,
    parents: Parents,
    which: Callable[..., Iterator[tuple[str, list[Document]]]],
) -> None:
    given = ("b", "a", "c") if which is founders.plain else GAINS
    # Relatives are interpolated much alike whatever the way; what counts is how far that is from the base.
    base = flat(parents, founders.parent("o"))
    results = {name: flat(parents, recipe) - base for name, recipe in which(space, given)}
    for one in results:
        for other in results:
            if one < other:
                distance = np.linalg.norm(results[one] - results[other])
                assert distance > 3e-3 * np.linalg.norm(results[one]), (one, other)


def test_a_franken_step_takes_what_was_fitter_else_the_step_before(space: Space, parents: Parents) -> None:
    recipes = dict(founders.combinations(space, GAINS))
    whole = recipes["linear+ties+franken"]
    before = dict(parents.compose(whole[:2]))
    for name, tensor in parents.compose(whole):
        layer = name.split(".")[2] if "layers" in name else ""
        expected = {"0": "c", "1": "c", "2": "", "": "b"}[layer]
        want = before[name] if not expected else pico("oabc".index(expected))[name]
        assert np.array_equal(tensor, want), name


def test_a_fusion_step_weighs_by_fitness(space: Space) -> None:
    (*_, last) = dict(founders.combinations(space, GAINS))["linear+ties+fusion"]
    first = {m["model"]: m["parameters"]["weight"][0]["value"] for m in last["models"]}
    assert first["c"] > first["a"] > first["sparsified"] > first["b"] > 0
    assert sum(first.values()) == pytest.approx(1.0)
    (*_, flat_) = dict(founders.combinations(space, np.zeros((3, 3))))["linear+ties+fusion"]
    assert {m["parameters"]["weight"][-1]["value"] for m in flat_["models"]} == {0.25}


def test_an_ablation_changes_one_group_to_one_model(space: Space, parents: Parents) -> None:
    average = dict(parents.compose(founders.average(space)))
    for name, tensor in parents.compose(founders.ablation(space, 1, "b")):
        want = pico(2)[name] if "layers.2." in name else average[name]
        assert np.allclose(tensor, want, atol=1e-6), name


def test_diversity_is_in_units_of_the_first_spread() -> None:
    generator = np.random.default_rng(1)
    first = generator.normal(0.3, 0.5, (400, 6))
    assert diversity(first.tolist(), 0.5) == pytest.approx(1.0, abs=0.05)
    assert diversity((first * 0.1).tolist(), 0.5) == pytest.approx(0.1, abs=0.01)
    assert diversity([first[0].tolist()] * 3, 0.5) == 0.0
    assert diversity([], 0.5) == 0.0
