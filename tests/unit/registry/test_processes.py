"""Several processes that read and change the same row through the public interface lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.home import Home
from forge.registry import Registry, edits, queries
from tests.unit.registry.counting import count_up

PROCESSES = 4


@pytest.mark.parametrize("times", [100, pytest.param(2000, marks=pytest.mark.proofs)])
def test_four_processes_count_up_together(home: Home, registry: Registry, session: str, times: int) -> None:
    registry.write(lambda c: edits.set_note(c, session, "0"))
    errors = count_up(home.root, session, PROCESSES, times)
    found = registry.one(queries.session(session))
    assert errors == []
    assert found is not None
    print(f"\n{PROCESSES} processes x {times} changes: the note says {found.note}, {len(errors)} errors")
    assert found.note == str(PROCESSES * times)


def test_a_change_that_reads_outside_its_transaction_loses_some(
    home: Home, registry: Registry, session: str
) -> None:
    """The control: the same counting, read first and written afterwards, is seen to fail."""
    registry.write(lambda c: edits.set_note(c, session, "0"))
    count_up(home.root, session, PROCESSES, 100, apart=True)
    found = registry.one(queries.session(session))
    assert found is not None
    assert int(found.note) < PROCESSES * 100


def test_the_counting_says_what_went_wrong(tmp_path: Path) -> None:
    (error,) = count_up(tmp_path / "home", "nobody", 1, 1)
    assert "NotFoundError" in error
