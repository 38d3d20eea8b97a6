"""A log in parts: bounded on disk, and read in order by whoever follows it across a rotation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge import durable
from forge.engine import logfile
from forge.engine.logfile import FULL_PARTS, LogReader, parts, rotate


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture
def reader(log: Path) -> Iterator[LogReader]:
    opened = LogReader(log)
    yield opened
    opened.close()


def add(log: Path, *lines: str) -> None:
    with log.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def read(reader: LogReader) -> list[str]:
    return [line.decode().rstrip("\n") for line in reader.lines()]


def test_nothing_is_there_yet(log: Path, reader: LogReader) -> None:
    assert parts(log) == []
    assert read(reader) == []
    add(log, "a")
    assert read(reader) == ["a"]


def test_a_reader_goes_on_where_it_was(log: Path, reader: LogReader) -> None:
    add(log, "a", "b")
    assert read(reader) == ["a", "b"]
    assert read(reader) == []
    add(log, "c")
    assert read(reader) == ["c"]


def test_a_reader_misses_nothing_across_rotations(log: Path, reader: LogReader) -> None:
    add(log, "a")
    assert read(reader) == ["a"]
    add(log, "b")
    rotate(log)
    add(log, "c")
    rotate(log)
    assert read(reader) == ["b", "c"]
    add(log, "d")
    assert read(reader) == ["d"]


def test_parts_are_read_oldest_first_and_so_many_are_kept(log: Path, reader: LogReader) -> None:
    for number in range(FULL_PARTS + 3):
        add(log, str(number))
        rotate(log)
    add(log, "last")
    assert [path.name for path in parts(log)] == ["log.jsonl.3", "log.jsonl.2", "log.jsonl.1", "log.jsonl"]
    assert read(reader) == ["3", "4", "5", "last"]


def test_a_reader_that_slept_through_everything_goes_on_with_what_is_left(
    log: Path, reader: LogReader
) -> None:
    add(log, "a")
    assert read(reader) == ["a"]
    add(log, "b")
    for number in range(FULL_PARTS + 2):
        rotate(log)
        add(log, str(number))
    # What it had open it still reads, though it has no name any more.
    assert read(reader) == ["b", "1", "2", "3", "4"]


def test_half_a_line_is_left_for_the_next_time(log: Path, reader: LogReader) -> None:
    log.write_text("a\nb")
    assert read(reader) == ["a"]
    with log.open("a") as file:
        file.write("b\n")
    assert read(reader) == ["bb"]


def test_half_a_line_at_the_end_of_a_full_part_is_all_there_will_be(log: Path, reader: LogReader) -> None:
    log.write_text("a\nb")
    assert read(reader) == ["a"]
    rotate(log)
    add(log, "c")
    assert read(reader) == ["b", "c"]


def test_output_of_this_process_goes_on_in_the_new_part(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library prints must not grow a part that nobody bounds any more."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    other = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(logfile, "_STANDARD", (descriptor, other, 999_999))
    os.write(descriptor, b"before\n")
    rotate(log)
    os.write(descriptor, b"after\n")
    os.write(other, b"elsewhere\n")
    assert log.read_text() == "after\n"
    assert parts(log)[0].read_text() == "before\n"
    os.close(descriptor)
    os.close(other)


def test_a_rotation_that_fails_half_way_keeps_the_order(
    log: Path, reader: LogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.move

    def move(source: Path, target: Path) -> None:
        if source == log:
            raise OSError(28, "No space left on device")
        real(source, target)

    for number in range(2):
        add(log, str(number))
        rotate(log)
    add(log, "2")
    monkeypatch.setattr(durable, "move", move)
    with pytest.raises(OSError, match="No space"):
        rotate(log)
    monkeypatch.undo()
    add(log, "3")
    assert read(reader) == ["0", "1", "2", "3"]
