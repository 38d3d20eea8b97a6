"""The population of a phase run, in the registry: what is there was decided, and needs no second measurement.

Written through the outbox, so a registry that does not answer stops no evaluation; what waits there is known
here all the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from forge.contract import Individual
from forge.engine.outbox import Outbox
from forge.registry import Connection, IndividualRow, Registry, population


class RegistryPopulation:
    """`Population` of one phase run; on the training thread only."""

    def __init__(self, registry: Registry, outbox: Outbox, session_id: str, phase: str) -> None:
        self._registry, self._outbox = registry, outbox
        self._session, self._phase = session_id, phase
        self._known: dict[str, Individual] | None = None

    def known(self) -> Mapping[str, Individual]:
        """See `Population.known`."""
        return self._all()

    def add(self, individuals: Sequence[Individual]) -> None:
        """See `Population.add`; all in one transaction."""
        known, now = self._all(), time.time()
        fresh = [individual for individual in individuals if individual.key not in known]
        known.update((individual.key, individual) for individual in fresh)

        def change(c: Connection) -> None:
            for one in fresh:
                population.add(
                    c, self._session, self._phase, key=one.key, generation=one.generation, name=one.name,
                    kind=one.kind, genome=one.genome, recipe=one.recipe, parents=one.parents, now=now,
                )  # fmt: skip

        if fresh:
            self._outbox.post(change)

    def measured(self, key: str, fitness: float, metrics: Mapping[str, float]) -> None:
        """See `Population.measured`."""
        known, now = self._all(), time.time()
        known[key] = replace(known[key], fitness=fitness, metrics=dict(metrics))
        self._outbox.post(
            lambda c: population.set_fitness(c, self._session, self._phase, key, fitness, metrics, now)
        )

    def _all(self) -> dict[str, Individual]:
        if self._known is None:
            rows = self._registry.fetch(population.individuals(self._session, self._phase))
            self._known = {row.key: _individual(row) for row in rows}
        return self._known


def _individual(row: IndividualRow) -> Individual:
    return Individual(
        key=row.key,
        generation=row.generation,
        name=row.name,
        kind=row.kind,
        genome=row.genome,
        recipe=row.recipe,
        parents=row.parents,
        fitness=row.fitness,
        metrics=row.metrics,
    )
