"""The power is cut at every effect of every operation; and every single fsync is needed.

Because a killed process keeps its page cache, `kill -9` proves nothing about the order of fsyncs. Here a cut
drops what was not fsynced, in the ways that POSIX allows.
"""

from __future__ import annotations

import pytest

from forge.validate.disk import Disk
from tests.unit.faults.conftest import Bench
from tests.unit.faults.operations import OPERATIONS, Operation

NOT_NEEDED = {("create", 1): "the registry that is made next syncs the same folder; `refill` makes none"}
"""By operation and number: fsyncs that another one covers there, and that are needed elsewhere."""
each = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)


@each
def test_a_cut_at_any_effect(operation: Operation, bench: Bench) -> None:
    disk = bench.record(operation)
    for image in disk.images.values():
        wrong = bench.after_a_cut(operation, image)
        done = disk.effects[: image.at - 1][-3:]
        assert wrong == [], f"cut at effect {image.at}, {image.kind}, after {done}"
    for image in disk.final:
        assert bench.after_its_end(operation, image) == [], f"cut after its end, {image.kind}"
    print(f"{operation.name}: {len(disk.effects)} effects, {len(disk.images)} images")


@each
def test_without_any_one_fsync_a_cut_is_noticed(operation: Operation, bench: Bench) -> None:
    syncs = bench.record(operation).syncs
    for number, what in enumerate(syncs, 1):
        expected = (operation.name, number) not in NOT_NEEDED
        found = noticed(operation, bench.record(operation, skip=number), bench)
        assert found is expected, f"fsync {number} of {len(syncs)}, of {what}, is {'not ' * expected}needed"


@each
@pytest.mark.parametrize("database", ["registry.db", "metrics.db"])
def test_without_durable_commits_a_cut_is_noticed(operation: Operation, database: str, bench: Bench) -> None:
    disk = bench.record(operation, weak=database)
    if any(database in name for name in disk.commits):
        assert noticed(operation, disk, bench)
    elif operation.name != "migrate":  # one that is lost is done again by whoever opens the registry next
        assert database == "metrics.db"
        assert operation.name not in ("first", "save")


def noticed(operation: Operation, disk: Disk, bench: Bench) -> bool:
    """Whether any cut leaves something wrong."""
    return any(bench.after_its_end(operation, image) for image in disk.final) or any(
        bench.after_a_cut(operation, image) for image in disk.images.values()
    )


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("first", 5),
        *(pytest.param(name, 100, marks=pytest.mark.proofs) for name in ("first", "save", "finish")),
    ],
)
def test_killed_begun_anew_and_cut_after_its_end(name: str, most: int, bench: Bench) -> None:
    """A killed process made a name, so who comes next finds it: in the page cache, or on the disk?"""
    operation = next(operation for operation in OPERATIONS if operation.name == name)
    for at in range(1, most + 1):
        died, disk = bench.kill_and_go_on(operation, at)
        for image in disk.final:
            assert bench.after_its_end(operation, image) == [], f"killed at effect {at}; {image.kind}"
        if not died:
            break
    assert at == most or not died
    assert at >= 5
