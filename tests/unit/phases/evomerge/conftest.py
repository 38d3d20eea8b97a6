"""One family of three branches for all tests here; none may change it."""

from __future__ import annotations

import pytest
import torch

from forge.contract import PhaseResult
from forge.phases import EvoMerge
from tests.plain import PlainContext
from tests.unit.phases.branches import Family, evolving, grown


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("family")
    return grown(evolving(place), place)


@pytest.fixture(scope="session")
def evolved(family: Family) -> tuple[PhaseResult, PlainContext]:
    """A whole phase of the configuration as it is."""
    ctx = family.context()
    return EvoMerge(family.config).run(ctx, family.models), ctx
