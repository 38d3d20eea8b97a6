"""A reader of another program that keeps a cursor open: told by name, and forgotten when it has gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.engine.wal import CHECK_SECONDS, WalWatch, wal_bytes
from forge.registry import MetricsWriter, sqlite
from tests.unit.registry.foreign import foreign_reader

LIMIT = 1 << 20


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[MetricsWriter]:
    writer = MetricsWriter(tmp_path / "metrics.db")
    yield writer
    writer.close()


def grow(writer: MetricsWriter, above: int) -> None:
    step = 0
    while wal_bytes(writer.path) <= above:
        writer.append([("p", number, {"loss": float(number)}) for number in range(step, step + 5000)])
        step += 5000


@pytest.fixture
def watching(metrics: MetricsWriter) -> tuple[WalWatch, Clock, list[tuple[str, str]]]:
    clock, told = Clock(), list[tuple[str, str]]()
    watch = WalWatch(
        (metrics.path,), lambda text, level: told.append((text, level)), limit=LIMIT, clock=clock
    )
    return watch, clock, told


def test_a_log_that_nobody_pins_is_emptied_without_a_word(
    metrics: MetricsWriter, watching: tuple[WalWatch, Clock, list[tuple[str, str]]]
) -> None:
    watch, _, told = watching
    grow(metrics, LIMIT)
    watch.check()
    assert wal_bytes(metrics.path) == 0
    assert told == []


def test_a_foreign_reader_is_named_once_and_its_end_empties_the_log(
    metrics: MetricsWriter, watching: tuple[WalWatch, Clock, list[tuple[str, str]]]
) -> None:
    watch, clock, told = watching
    metrics.append([("p", number, {"loss": 0.0}) for number in range(5000)])
    with foreign_reader(metrics.path, "point") as reader:
        grow(metrics, 2 * LIMIT)
        for _ in range(3):
            clock.now += CHECK_SECONDS
            watch.check()
        assert wal_bytes(metrics.path) > LIMIT
        assert len(told) == 1
        assert f"(pid {reader.pid}) keeps the write-ahead log of metrics.db" in told[0][0]
        assert told[0][1] == "warning"
        metrics.append([("p", -1, {"loss": 1.0})])  # the writer goes on all the while
        reader.communicate()
    clock.now += CHECK_SECONDS
    watch.check()
    assert wal_bytes(metrics.path) == 0
    assert told[1:] == [("the write-ahead log of metrics.db is at 0 B again", "info")]


def test_it_looks_only_now_and_then(
    metrics: MetricsWriter, watching: tuple[WalWatch, Clock, list[tuple[str, str]]]
) -> None:
    watch, clock, _ = watching
    watch.check()
    grow(metrics, LIMIT)
    watch.check()
    assert wal_bytes(metrics.path) > LIMIT
    clock.now += CHECK_SECONDS
    watch.check()
    assert wal_bytes(metrics.path) == 0


def test_the_end_of_a_foreign_reader_is_seen_within_ten_seconds() -> None:
    assert CHECK_SECONDS < 10


def test_a_file_that_cannot_be_opened_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise sqlite.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite, "open_writer", refuse)
    (tmp_path / "metrics.db-wal").write_bytes(bytes(LIMIT + 1))
    told: list[str] = []
    databases = (tmp_path / "metrics.db", tmp_path / "none.db")
    WalWatch(databases, lambda text, level: told.append(text), limit=LIMIT).check()
    assert [text.partition(" of ")[0] for text in told] == ["another program keeps the write-ahead log"]
