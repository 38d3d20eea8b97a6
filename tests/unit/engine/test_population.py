"""A phase run finds what the attempt before it knew, and a registry that is silent stops nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forge.contract import Individual
from forge.engine.outbox import Outbox
from forge.engine.population import RegistryPopulation
from forge.errors import RegistryError
from forge.registry import Registry, population
from tests.unit.engine.rig import Rig

ONE = Individual("k", 1, "n", "search", (0.5,), ({"merge_method": "linear"},), ("p",))


def opened(rig: Rig, outbox: Outbox | None = None) -> RegistryPopulation:
    """As a new process has it."""
    return RegistryPopulation(rig.registry, outbox or Outbox(rig.registry), rig.session_id, "evomerge")


def test_the_next_attempt_knows_what_was_added_and_measured(rig: Rig) -> None:
    first = opened(rig)
    first.add([ONE])
    assert opened(rig).known() == {"k": ONE}
    first.measured("k", 0.25, {"bpb": 2.0})
    (found,) = opened(rig).known().values()
    assert (found.fitness, found.metrics) == (0.25, {"bpb": 2.0})
    # What is known is never asked for again, nor taken back.
    again = opened(rig)
    again.add([ONE])
    assert again.known()["k"].fitness == 0.25


def test_what_the_registry_does_not_take_is_known_and_written_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(rig.registry)
    mine = opened(rig, outbox)
    mine.known()

    def locked(self: Registry, change: Callable[..., Any]) -> Any:
        raise RegistryError("locked")

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "write", locked)
        mine.add([ONE])
        mine.measured("k", 0.5, {})
        assert mine.known()["k"].fitness == 0.5
    assert rig.registry.fetch(population.individuals(rig.session_id, "evomerge")) == []
    assert outbox.flush()
    (row,) = rig.registry.fetch(population.individuals(rig.session_id, "evomerge"))
    assert row.fitness == 0.5
