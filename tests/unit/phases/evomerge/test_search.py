"""The search is a pure function of seed and fitness: told again, it asks again, and elites never get lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from forge.config import EvoMergeConfig
from forge.contract import Individual
from forge.errors import TrainingError
from forge.phases.evomerge.search import RANDOM, SEARCH, Batch, Evolution, Search, by_fitness, with_fitness
from forge.phases.evomerge.space import Space

CONFIG = EvoMergeConfig(groups=2, generations=6, population=8)
SPACE = Space("o", ("a", "b", "c"), "dare_linear", (("l.0.",), ("l.1.",)), 1)
Fitness = Callable[[Individual], float]


def begun(config: EvoMergeConfig = CONFIG, seed: int = 4) -> Evolution:
    return Evolution(Search(SPACE, config, seed, "conditions"))


def bowl(one: Individual) -> float:
    """Best where every model has the weight 1/2; what is no point of the space is poor."""
    if not one.genome:
        return 0.2
    weights, _ = SPACE.values(one.genome)
    return math.exp(-float(np.square(weights - 0.5).sum()))


def run(evolution: Evolution, fitness: Fitness = bowl, until: int | None = None) -> list[Batch]:
    """To the end, or until so many are measured; the batches that ended."""
    ended = []
    steps = len(range(len(evolution.measured), until or CONFIG.total_steps))
    for _ in range(steps):
        due = evolution.due
        if (batch := evolution.take(with_fitness(due, fitness(due), {"bpb x": 1.0}))) is not None:
            ended.append(batch)
    return ended


def test_the_plan_is_as_long_as_the_configuration_says() -> None:
    for config in (
        CONFIG,
        CONFIG.model_copy(update={"combinations": False, "elites": 0}),
        CONFIG.model_copy(update={"random_search": False, "groups": 2, "elites": 3}),
        CONFIG.model_copy(update={"generations": 0}),
    ):
        evolution, sizes = begun(config), []
        for _ in range(config.total_steps):
            due = evolution.due
            batch = evolution.take(with_fitness(due, bowl(due), {}))
            sizes += [len(batch.individuals)] if batch else []
        assert tuple(sizes) == config.batches
        assert len({one.key for one in evolution.measured}) == config.total_steps
        random = sum(one.kind == RANDOM for one in evolution.measured)
        fresh = sum(one.kind == SEARCH and one.generation > 0 for one in evolution.measured)
        assert random == (fresh if config.random_search else 0)


def test_it_climbs_and_the_best_is_never_lost() -> None:
    batches = run(begun())
    generations = [batch for batch in batches if batch.generation > 0]
    best = [max(one.fitness or 0 for one in (*b.elites, *b.individuals)) for b in generations]
    assert best == sorted(best)
    assert best[-1] > 1.15 * bowl(next(one for one in batches[1].individuals if one.kind == SEARCH))
    for batch in generations[1:]:
        assert len(batch.elites) >= CONFIG.elites
        assert not {one.key for one in batch.elites} & {one.key for one in batch.individuals}
    drawn = by_fitness(one for one in batches[-1].individuals)[0]
    assert drawn.kind == RANDOM
    assert (drawn.fitness or 0) < best[-1]


def test_an_elite_that_is_no_point_stays_in_the_population() -> None:
    def fitness(one: Individual) -> float:
        return 0.9 if one.name == "multislerp" else 0.1 * bowl(one)

    batches = run(begun(), fitness)
    for batch in (b for b in batches if b.generation > 0):
        assert batch.elites[0].name == "multislerp"


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    def asked(seed: int) -> list[str]:
        evolution = begun(seed=seed)
        run(evolution)
        return [one.key for one in evolution.measured]

    state = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002 - is not to move
    first = asked(4)
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert asked(4) == first
    assert asked(5) != first


@pytest.mark.parametrize("until", [0, 1, 13, 30, 33, 41, CONFIG.total_steps - 1])
def test_told_again_it_stands_where_it_stood(until: int) -> None:
    straight, first, second = begun(), begun(), begun()
    run(straight)
    run(first, until=until) if until else None
    second.load_state_dict(first.state_dict())
    assert second.due == first.due
    run(second)
    assert second.measured == straight.measured


def test_what_was_told_is_part_of_what_is_asked() -> None:
    """The control: a search that ignored fitness would pass every test above but one."""
    one, other = begun(), begun()
    run(one)
    run(other, lambda individual: 1.0 - bowl(individual))
    assert [a.key for a in one.measured[:13]] == [a.key for a in other.measured[:13]]
    last = [[a for a in evolution.measured if a.kind == SEARCH][-1] for evolution in (one, other)]
    assert last[0].generation == last[1].generation == CONFIG.generations
    assert last[0].genome != last[1].genome


def test_a_checkpoint_of_another_library_is_refused() -> None:
    evolution = begun()
    run(evolution, until=40)
    state: dict[str, Any] = evolution.state_dict()
    state["told"][39]["key"] = "0" * 32
    with pytest.raises(TrainingError, match=r"candidate .* is another one now. cma is \d"):
        begun().load_state_dict(state)


def test_ancestors_are_the_fitter_half_of_the_generation_before() -> None:
    batches = run(begun())
    by_generation = {batch.generation: batch for batch in batches if batch.generation > 0}
    before = by_generation[3]
    points = [one for one in (*before.elites, *before.individuals) if one.genome]
    expected = {one.key for one in by_fitness(points)[: CONFIG.population // 2]}
    assert set(by_generation[4].individuals[0].parents) == expected
