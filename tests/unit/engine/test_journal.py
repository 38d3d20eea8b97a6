"""Events reach the registry and the log, in spite of a full disk and of floods."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest

from forge.engine import logfile
from forge.engine.journal import Flood, Journal
from forge.engine.outbox import Outbox
from forge.errors import TrainingError
from forge.home import Home
from forge.registry import Registry, queries
from tests.unit.engine.rig import Clock, Rig


@pytest.fixture
def journal(registry: Registry, session: str, home: Home) -> Journal:
    return Journal(Outbox(registry), session, home.session(session), Clock())


def test_an_event_is_in_both_places(journal: Journal, rig: Rig) -> None:
    journal.event("oom", "no memory für größe\n\x1b[2J", phase="pretrain", step=7, level="warning")
    (row,) = rig.registry.fetch(queries.latest_events(rig.session_id, 10))
    assert (row.kind, row.phase, row.step, row.level, row.at) == ("oom", "pretrain", 7, "warning", 1000.0)
    assert row.message == "no memory für größe\n\x1b[2J"
    (line,) = rig.log()
    assert line == {
        "at": 1000.0, "level": "warning", "kind": "oom", "phase": "pretrain", "step": 7,
        "message": row.message,
    }  # fmt: skip
    raw = rig.paths.log.read_bytes()
    assert raw.isascii()
    assert raw.count(b"\n") == 1
    assert rig.paths.log.stat().st_mode & 0o777 == 0o600


def test_a_line_goes_to_the_log_only(journal: Journal, rig: Rig) -> None:
    journal.line("traceback", "deep", level="error")
    assert [line["message"] for line in rig.log()] == ["deep"]
    assert rig.events() == []


def test_the_log_is_bounded_and_goes_on_in_a_new_part(
    journal: Journal, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "MOST_BYTES", 4_000)
    for number in range(400):
        journal.line("note", f"line {number} " + "x" * 60)
    there = logfile.parts(rig.paths.log)
    assert len(there) == logfile.FULL_PARTS + 1
    assert all(path.stat().st_size < 4_000 + 250 for path in there)
    assert sum(path.stat().st_size for path in there) < 4 * 4_250
    reader = logfile.LogReader(rig.paths.log)
    numbers = [int(json.loads(line)["message"].split()[1]) for line in reader.lines()]
    reader.close()
    assert numbers == list(range(numbers[0], 400))
    assert numbers[0] > 0


def test_a_log_that_cannot_be_rotated_goes_on_growing_and_loses_nothing(
    journal: Journal, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(log: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logfile, "MOST_BYTES", 100)
    monkeypatch.setattr(logfile, "rotate", refuse)
    for number in range(5):
        journal.line("note", f"line {number}")
    assert [line["message"] for line in rig.log()] == [f"line {number}" for number in range(5)]


def test_a_failure_says_where_it_happened(journal: Journal, rig: Rig) -> None:
    journal.place = "pretrain", 7
    journal.failure(TrainingError("diverged"))
    (row,) = rig.registry.fetch(queries.latest_events(rig.session_id, 10))
    assert (row.kind, row.phase, row.step) == ("error", "pretrain", 7)


def test_a_full_disk_raises_nothing_and_loses_nothing(
    journal: Journal, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    journal.event("a", "one")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        journal.event("b", "two")
        journal.event("c", "three")
        assert len(rig.log()) == 1
    journal.event("d", "four")
    assert [line["message"] for line in rig.log()] == ["one", "two", "three", "four"]
    assert rig.events() == ["one", "two", "three", "four"]


def test_half_a_line_does_not_spoil_the_next(
    journal: Journal, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
        journal.line("a", "one")
    journal.line("b", "two")
    lines = rig.paths.log.read_text().splitlines()
    assert len(lines[0]) == 10
    assert [json.loads(line)["message"] for line in lines[1:]] == ["one", "two"]


def test_a_folder_that_is_gone_raises_nothing(journal: Journal, rig: Rig) -> None:
    shutil.rmtree(rig.paths.root)
    journal.event("a", "one")
    assert rig.events() == ["one"]
    assert not rig.paths.root.exists()


def test_a_failure_that_a_person_can_act_on_has_no_traceback(journal: Journal, rig: Rig) -> None:
    assert journal.failure(TrainingError("out of memory")) == "out of memory"
    assert [(line["kind"], line["level"]) for line in rig.log()] == [("error", "error")]


def test_a_mistake_of_the_program_leaves_its_traceback(journal: Journal, rig: Rig) -> None:
    def mistake() -> Any:
        return dict[str, int]()["nothing"]

    with pytest.raises(KeyError) as caught:
        mistake()
    reason = journal.failure(caught.value)
    assert reason == f"KeyError: 'nothing' (the traceback is in {rig.paths.log})"
    assert "in mistake" in rig.log()[0]["message"]
    assert rig.events("error") == [reason]


def test_a_flood_is_held_back_and_counted() -> None:
    clock = Clock()
    flood = Flood(burst=3, period=60.0, clock=clock)
    assert [flood.admit("skipped") for _ in range(5)] == [0, 0, 0, None, None]
    assert flood.admit("oom") == 0  # another kind has its own count
    clock.now += 59
    assert flood.admit("skipped") is None
    clock.now += 1
    assert [flood.admit("skipped"), flood.admit("skipped")] == [3, None]
    assert flood.take_held() == {"skipped": 1}
    assert flood.take_held() == {}
