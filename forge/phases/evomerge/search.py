"""What is measured, in which order: generation 0, CMA-ES (Hansen 2016, arXiv 1604.00772), the control.

A pure function of the seed and of the fitness that it is told, so its whole state is what it was told: a
resumed run tells it again, and stands where it stood to the last bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forge.config import EvoMergeConfig
from forge.contract import Individual
from forge.errors import TrainingError
from forge.phases.evomerge import founders
from forge.phases.evomerge.space import Document, Space, Vector

PARENT, SEARCH, RANDOM = "parent", "search", "random"


@dataclass(frozen=True)
class Batch:
    """Individuals that can be measured side by side."""

    generation: int
    individuals: tuple[Individual, ...]
    elites: tuple[Individual, ...] = ()
    """Members of the same population that are measured already."""


Plan = Generator[Batch, Sequence[Individual], None]


@dataclass
class Search:
    """The plan of an evolution; generates batches and is sent them back measured."""

    space: Space
    config: EvoMergeConfig
    seed: int
    conditions: str
    """What a measurement depends on besides the recipe; part of every key."""

    def plan(self) -> Plan:
        """All batches, in order."""
        told = yield Batch(0, tuple(self._first()))
        average = next(one for one in told if one.name == founders.AVERAGE)
        founded = yield Batch(0, tuple(self._generation_zero(told, average)), tuple(told))
        yield from self._evolution([one for one in (*told, *founded) if one.kind != PARENT])
        if self.config.random_search and self.config.generations:
            generator = np.random.Generator(np.random.PCG64([self.seed, 2]))
            count = self.config.batches[-1]
            points = [
                self._point(0, f"random {n + 1}", RANDOM, self.space.drawn(generator)) for n in range(count)
            ]
            yield Batch(0, tuple(points))

    def _evolution(self, merges: list[Individual]) -> Plan:
        """Generations of CMA-ES from the average on; the fittest points so far count in each again."""
        import cma

        # Its own default draws from the global generator of numpy.
        generator = np.random.Generator(np.random.PCG64([self.seed, 1]))
        strategy = cma.CMAEvolutionStrategy(
            self.space.start,
            self.config.sigma,
            {
                "popsize": self.config.population,
                "seed": np.nan,
                "randn": lambda *shape: generator.standard_normal(shape),
                "verbose": -9,
                "verb_log": 0,
            },
        )
        points = [one for one in merges if one.genome]
        ancestors = tuple(one.key for one in points)
        for generation in range(1, self.config.generations + 1):
            kept = by_fitness(points)[: self.config.elites]
            fresh = [
                self._point(generation, f"{generation}.{n + 1}", SEARCH, genome, ancestors)
                for n, genome in enumerate(strategy.ask(self.config.population - len(kept)))
            ]
            # What is no point of the space stays in the population too, as long as it is among the fittest.
            elites = {one.key: one for one in (*by_fitness(merges)[: self.config.elites], *kept)}
            told = yield Batch(generation, tuple(fresh), tuple(elites.values()))
            population = [*told, *kept]
            # It minimises; a kept one that is far off by now it takes for a nearer one.
            genomes = [np.array(one.genome) for one in population]
            strategy.tell(genomes, [-(one.fitness or 0.0) for one in population])
            ancestors = tuple(one.key for one in by_fitness(population)[: len(population) // 2])
            merges, points = [*merges, *told], [*points, *told]

    def _first(self) -> list[Individual]:
        space, models = self.space, self.space.models
        labels = space.labels or models
        found = [
            self._made(f"parent {label}", PARENT, founders.parent(model), (model,))
            for model, label in zip(models, labels, strict=True)
        ]
        found.append(self._made(founders.AVERAGE, "plain", founders.average(space), models))
        if self.config.combinations:
            found += [
                self._made(f"group {group + 1} of {label}", "ablation",
                           founders.ablation(space, group, model), models)
                for group in range(len(space.groups) + 1)
                for model, label in zip(models, labels, strict=True)
            ]  # fmt: skip
        return found

    def _generation_zero(self, told: Sequence[Individual], average: Individual) -> list[Individual]:
        space = self.space
        parents = [one for one in told if one.kind == PARENT]
        ranked = [one.parents[0] for one in by_fitness(parents)]
        found = [
            self._made(name, "plain", recipe, ranked[:2] if name == "slerp" else space.models)
            for name, recipe in founders.plain(space, ranked)
        ]
        if self.config.combinations:
            alone = [one.fitness or 0.0 for one in told if one.kind == "ablation"]
            gains = np.array(alone).reshape(len(space.groups) + 1, -1) - (average.fitness or 0.0)
            found += [
                self._made(name, "combination", recipe, space.models)
                for name, recipe in founders.combinations(space, gains)
            ]
        found.append(self._point(0, "start of the search", SEARCH, space.start, space.models))
        return found

    def _point(
        self, generation: int, name: str, kind: str, genome: Vector, parents: Sequence[str] = ()
    ) -> Individual:
        place = tuple(float(value) for value in genome)
        recipe = self.space.recipe(place)
        return Individual(
            self._key(recipe), generation, name, kind, place, recipe, tuple(parents or self.space.models)
        )

    def _made(self, name: str, kind: str, recipe: list[Document], parents: Iterable[str]) -> Individual:
        return Individual(self._key(recipe), 0, name, kind, (), recipe, tuple(parents))

    def _key(self, recipe: Sequence[Mapping[str, Any]]) -> str:
        text = json.dumps([list(recipe), self.conditions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Evolution:
    """A plan that is under way: which individual is due, and all that were measured; `Stateful`."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._begin()

    def _begin(self) -> None:
        self.measured: list[Individual] = []
        """In the order of the plan."""
        self._plan = self._search.plan()
        self._open(next(self._plan))

    @property
    def space(self) -> Space:
        """What is searched."""
        return self._search.space

    @property
    def due(self) -> Individual:
        """The one to be measured next."""
        return self.batch.individuals[self._place]

    def take(self, found: Individual) -> Batch | None:
        """Go on with the one that is due, measured; its batch, where it was the last of it."""
        self.measured.append(found)
        self._told.append(found)
        self._place += 1
        if self._place < len(self.batch.individuals):
            return None
        ended = Batch(self.batch.generation, tuple(self._told), self.batch.elites)
        following = next_of(self._plan, self._told)
        if following is not None:
            self._open(following)
        return ended

    def state_dict(self) -> dict[str, Any]:
        """What was told, which is all that there is to know."""
        return {
            "told": [
                {"key": one.key, "fitness": one.fitness, "metrics": dict(one.metrics)}
                for one in self.measured
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Tell it all again.

        Raises:
            TrainingError: another version of the library asks other questions.
        """
        import cma

        self._begin()
        for told in state["told"]:
            if self.due.key != told["key"]:
                raise TrainingError(
                    f"evomerge cannot go on from its checkpoint: candidate {self.due.name} is another one "
                    f"now. cma is {cma.__version__} here; resume with the version that the run began with, "
                    "or make a new session."
                )
            self.take(with_fitness(self.due, told["fitness"], told["metrics"]))

    def _open(self, batch: Batch) -> None:
        self.batch: Batch = batch
        self._told: list[Individual] = []
        self._place = 0


def next_of(plan: Plan, told: Sequence[Individual]) -> Batch | None:
    """The next batch of a plan that is sent the last one; none at its end."""
    try:
        return plan.send(told)
    except StopIteration:
        return None


def with_fitness(one: Individual, fitness: float, metrics: Mapping[str, float]) -> Individual:
    """The same, measured."""
    return replace(one, fitness=fitness, metrics=metrics)


def by_fitness(individuals: Iterable[Individual]) -> list[Individual]:
    """The fittest first; of equals the one that was there first."""
    return sorted(individuals, key=lambda one: -(one.fitness or 0.0))


def diversity(genomes: Sequence[Sequence[float]], sigma: float) -> float:
    """How far the members of a population are from their mean, in units of the first generation's spread."""
    if not genomes:
        return 0.0
    points = np.array(genomes, np.float64)
    return float(np.sqrt(np.square(points - points.mean(axis=0)).mean()) / sigma)
