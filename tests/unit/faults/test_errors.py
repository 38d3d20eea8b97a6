"""The disk refuses any one effect of any operation: it is full, or it fails; and then a fresh process looks.

The operation says that it could not, or it went on without; either way nothing is half done for good.
"""

from __future__ import annotations

import pytest

from tests.unit.faults.conftest import FAULTS, Bench
from tests.unit.faults.operations import OPERATIONS, Operation

MOST = 200


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_disk_that_refuses_once(operation: Operation, fault: str, bench: Bench) -> None:
    walk(operation, fault, bench, lasting=False)


@pytest.mark.proofs
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_disk_that_refuses_from_then_on(operation: Operation, fault: str, bench: Bench) -> None:
    walk(operation, fault, bench, lasting=True)


def walk(operation: Operation, fault: str, bench: Bench, *, lasting: bool) -> None:
    """Refuse the first effect, the second … until the operation gets through untouched."""
    for at in range(1, MOST):
        struck, wrong = bench.fail(operation, at, FAULTS[fault], lasting=lasting)
        assert wrong == [], f"{fault} at effect {at}"
        if not struck:
            assert at > 3, "the walk ends before it struck"
            print(f"{operation.name}: {at - 1} times {fault}")
            return
    pytest.fail("it never got through")
