"""The disk refuses any one effect of any operation: it is full, or it fails; and then a fresh process looks.

The operation says that it could not, or it went on without; either way nothing is half done for good.
"""

from __future__ import annotations

import pytest

from tests.unit.faults.conftest import FAULTS, Bench
from tests.unit.faults.operations import OPERATIONS, Operation


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
    """Refuse the first effect that can be, the second … to the last."""
    struck = 0
    for at, kind in enumerate(bench.kinds(operation), 1):
        if kind in FAULTS[fault].refused:
            assert bench.fail(operation, at, FAULTS[fault], lasting=lasting) == [], f"{fault} at effect {at}"
            struck += 1
    assert struck > 3
    print(f"{operation.name}: {struck} times {fault}")
