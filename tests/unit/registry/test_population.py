"""What is known of a population survives, and nothing of it is measured twice."""

from __future__ import annotations

from typing import Any

import pytest

from forge.errors import NotFoundError
from forge.registry import Connection, IndividualRow, Registry, population

RECIPE = ({"merge_method": "linear", "models": [{"model": "a"}]},)


def add(registry: Registry, session: str, *keys: str, phase: str = "evomerge", **changes: Any) -> None:
    """Individuals of these keys, in one transaction."""
    given: dict[str, Any] = {
        "generation": 1, "name": "n", "kind": "search", "genome": [0.25, 1.0], "recipe": RECIPE,
        "parents": ["p"], "now": 5.0, **changes,
    }  # fmt: skip

    def change(c: Connection) -> None:
        for key in keys:
            population.add(c, session, phase, key=key, **given)

    registry.write(change)


def measure(registry: Registry, session: str, key: str, fitness: float) -> None:
    registry.write(lambda c: population.set_fitness(c, session, "evomerge", key, fitness, {"bpb": 2.0}, 6.0))


def rows(registry: Registry, session: str, phase: str = "evomerge") -> list[IndividualRow]:
    return registry.fetch(population.individuals(session, phase))


def test_an_individual_comes_back_as_it_was(registry: Registry, session: str) -> None:
    add(registry, session, "k")
    (row,) = rows(registry, session)
    assert (row.key, row.generation, row.name, row.kind, row.created_at) == ("k", 1, "n", "search", 5.0)
    assert (row.genome, row.recipe, row.parents) == ((0.25, 1.0), RECIPE, ("p",))
    assert (row.fitness, row.metrics, row.measured_at) == (None, {}, None)
    measure(registry, session, "k", 0.5)
    (row,) = rows(registry, session)
    assert (row.fitness, row.metrics, row.measured_at) == (0.5, {"bpb": 2.0}, 6.0)


def test_one_that_is_there_stays_as_it_is(registry: Registry, session: str) -> None:
    add(registry, session, "k")
    measure(registry, session, "k", 0.5)
    add(registry, session, "k", "l", generation=7)
    assert [(row.key, row.generation, row.fitness) for row in rows(registry, session)] == [
        ("k", 1, 0.5), ("l", 7, None),
    ]  # fmt: skip


def test_phases_have_populations_of_their_own(registry: Registry, session: str) -> None:
    add(registry, session, "k")
    add(registry, session, "k", phase="experts")
    measure(registry, session, "k", 0.5)
    assert rows(registry, session, "experts")[0].fitness is None


def test_the_fittest_come_first_and_the_unmeasured_last(registry: Registry, session: str) -> None:
    add(registry, session, *"abcd")
    add(registry, session, "e", recipe=())
    for key, fitness in {"a": 0.2, "b": 0.4, "d": 0.4}.items():
        measure(registry, session, key, fitness)
    found = registry.fetch(population.standings(session, "evomerge", 9))
    assert [row.key for row in found] == ["b", "d", "a", "c", "e"]
    assert [row.method for row in found] == ["linear"] * 4 + [""]
    assert found[0].parents == ("p",)
    assert len(registry.fetch(population.standings(session, "evomerge", 2))) == 2


def test_a_fitness_without_an_individual_is_refused(registry: Registry, session: str) -> None:
    with pytest.raises(NotFoundError, match="no individual k"):
        measure(registry, session, "k", 0.5)


def test_a_genome_is_of_numbers(registry: Registry, session: str) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        add(registry, session, "k", genome=[float("nan")])


def test_it_goes_with_its_session(registry: Registry, session: str) -> None:
    add(registry, session, "k")
    registry.write(lambda c: c.execute("DELETE FROM session WHERE id = ?", [session]).close())
    assert rows(registry, session) == []
