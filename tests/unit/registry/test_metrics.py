"""Points come back as they were logged: NaN and infinities, after a rewind, through buckets."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge import durable
from forge.errors import RegistryError
from forge.registry import BucketRow, Heartbeat, MetricsWriter, PointRow, SeriesRow, queries, sqlite
from forge.registry.query import Query, T, fetch
from forge.registry.sqlite import one_value

FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=64)
STEPS = st.integers(0, 5) | st.integers(-(2**63) + 1, 2**63 - 1)  # few, so that they come again


def ask(path: Path, query: Query[T]) -> list[T]:
    with closing(sqlite.open_reader(path)) as connection:
        return fetch(connection, query)


def series(path: Path, name: str = "loss", phase: str = "p") -> SeriesRow:
    return next(row for row in ask(path, queries.series(phase)) if row.name == name)


def points(path: Path, name: str = "loss") -> list[tuple[int, str]]:
    found = ask(path, queries.points_after(series(path, name).id, -(1 << 63), 1_000_000))
    return [(row.step, repr(row.value)) for row in found]  # repr: NaN is not equal to itself


def beat(**changes: object) -> Heartbeat:
    values: dict[str, object] = {
        "at": 1.0,
        "phase": "p",
        "step": 3,
        "total_steps": 10,
        "steps_per_second": 2.0,
    }
    values |= {"tokens_per_second": 9.0, "eta_seconds": 3.5, "status": "", "coalesced": 0}
    return Heartbeat.model_construct(**{**values, **changes})  # type: ignore[arg-type]


def test_nan_and_infinities_come_back(writer: MetricsWriter, metrics_path: Path) -> None:
    values = [1.5, math.nan, math.inf, -math.inf, 0.0, 5e-324, 1.7976931348623157e308]
    assert writer.append([("p", step, {"loss": value}) for step, value in enumerate(values)]) == len(values)
    assert points(metrics_path) == [(step, repr(value)) for step, value in enumerate(values)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.lists(st.tuples(STEPS, st.dictionaries(st.sampled_from("abc"), FLOATS))),
        max_size=4,
    )
)
def test_what_was_logged_last_for_a_step_is_what_is_kept(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, dict[str, float]]]]
) -> None:
    path = tmp_path_factory.mktemp("metrics") / "metrics.db"
    expected: dict[str, dict[int, str]] = {}
    with closing(MetricsWriter(path)) as writer:
        for batch in batches:
            given = sum(len(values) for _, values in batch)
            assert writer.append([("p", step, values) for step, values in batch]) == given
            for step, values in batch:
                for name, value in values.items():
                    # SQLite keeps no sign of zero.
                    expected.setdefault(name, {})[step] = repr(value + 0.0)
        last = writer.last_steps("p")
    assert last == {name: max(steps) for name, steps in expected.items()}
    for name, steps in expected.items():
        assert points(path, name) == sorted(steps.items())


@pytest.mark.parametrize("count", [1, 15, 16, 17, 31, 33, 4096, 4097, 7999, 8000, 8001, 24_001])
def test_every_size_of_batch_is_written_whole(writer: MetricsWriter, metrics_path: Path, count: int) -> None:
    assert writer.append([("p", step, {"loss": float(step)}) for step in range(count)]) == count
    assert points(metrics_path) == [(step, repr(float(step))) for step in range(count)]


def test_a_batch_is_few_statements(writer: MetricsWriter) -> None:
    # One row a statement would be a thousand times slower beside a busy training thread: see the module.
    writer.append([("p", 0, {f"m{number}": 0.0 for number in range(10)})])
    seen: list[str] = []
    writer._connection.set_trace_callback(seen.append)
    writer.append([("p", step, {f"m{number}": 1.0 for number in range(10)}) for step in range(1000)])
    writer._connection.set_trace_callback(None)
    assert len(seen) == 4  # BEGIN, 8,000 rows, 2,000 rows, COMMIT


def test_whatever_is_a_number_is_taken(writer: MetricsWriter, metrics_path: Path) -> None:
    writer.append([("p", 0, {"loss": 3}), ("p", 1, {"loss": True}), ("p", 2, {"loss": 10**400})])
    writer.append([("p", 3, {"loss": -(10**400)})])
    assert points(metrics_path) == [(0, "3.0"), (1, "1.0"), (2, "inf"), (3, "-inf")]


def test_a_step_that_is_too_long_is_refused_and_nothing_is_half_written(
    writer: MetricsWriter, metrics_path: Path
) -> None:
    with pytest.raises(RegistryError, match="64 bits"):
        writer.append([("p", 1, {"loss": 1.0}), ("p", 1 << 63, {"loss": 1.0})])
    assert ask(metrics_path, queries.series(None)) == []
    writer.append([("p", 1, {"loss": 1.0})])  # the id of the series that was rolled back is not reused
    assert points(metrics_path) == [(1, "1.0")]


def test_a_commit_that_fails_forgets_the_series_that_it_would_have_made(
    writer: MetricsWriter, metrics_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all later points of that series would belong to none, and nobody would ever see them."""

    def full(kind: str, do: Any, *subject: Any) -> Any:
        if kind == "commit":
            raise sqlite.Error("database or disk is full")
        return do()

    records = [("p", 3, {"val": 1.5})]
    with monkeypatch.context() as patch:
        patch.setattr(durable, "watcher", full)
        with pytest.raises(sqlite.Error, match="full"):
            writer.append(records)
    writer.append(records)
    writer.append([("p", 6, {"val": 1.25})])
    assert points(metrics_path, "val") == [(3, "1.5"), (6, "1.25")]


def test_hostile_names(writer: MetricsWriter, metrics_path: Path) -> None:
    names = ["'; DROP TABLE point; --", "lone \udcff", "nul\0", "größe", ""]
    writer.append([("ph\udcff", 1, dict.fromkeys(names, 1.0))])
    found = [row.name for row in ask(metrics_path, queries.series("ph\udcff"))]
    assert found == ["'; DROP TABLE point; --", "lone \\udcff", "nul\\x00", "größe", ""]
    assert set(writer.last_steps("ph\udcff")) == set(found)
    assert writer.rewind("ph\udcff", {"lone \udcff": 1}) == 4


def test_nothing_to_write_is_nothing(writer: MetricsWriter, metrics_path: Path) -> None:
    assert writer.append([]) == 0
    assert writer.append([("p", 1, {})]) == 0
    assert ask(metrics_path, queries.series(None)) == []


def test_points_are_read_from_where_one_stopped(writer: MetricsWriter, metrics_path: Path) -> None:
    writer.append([("p", step, {"loss": 0.5}) for step in range(10)])
    found = ask(metrics_path, queries.points_after(series(metrics_path).id, 6, 2))
    assert found == [PointRow(step=7, value=0.5), PointRow(step=8, value=0.5)]


def test_the_newest_value_of_each_series(writer: MetricsWriter, metrics_path: Path) -> None:
    writer.append([("p", 1, {"loss": 1.0, "lr": 2.0}), ("p", 7, {"loss": math.inf}), ("q", 9, {"loss": 0.0})])
    writer.rewind("q", {})
    assert ask(metrics_path, queries.latest_points("p")) == [("loss", 7, math.inf), ("lr", 1, 2.0)]
    assert ask(metrics_path, queries.latest_points("q")) == []


# --- rewind ---------------------------------------------------------------------------------------------


def test_a_rewind_deletes_what_came_later_and_raises_the_epoch(
    writer: MetricsWriter, metrics_path: Path
) -> None:
    writer.append([("p", step, {"loss": 1.0, "lr": 2.0, "eval": 3.0}) for step in range(10)])
    writer.append([("q", step, {"loss": 1.0}) for step in range(10)])
    assert writer.rewind("p", {"loss": 4, "lr": 99, "unknown": 1}) == 5 + 0 + 10
    assert writer.last_steps("p") == {"loss": 4, "lr": 9}
    assert writer.last_steps("q") == {"loss": 9}
    epochs = {(row.phase, row.name): row.epoch for row in ask(metrics_path, queries.series(None))}
    assert epochs == {("p", "loss"): 1, ("p", "lr"): 1, ("p", "eval"): 1, ("q", "loss"): 0}
    # Logged again, each step once.
    writer.append([("p", step, {"loss": -1.0}) for step in range(5, 8)])
    assert [step for step, _ in points(metrics_path)] == list(range(8))
    assert series(metrics_path, "eval").last_step is None


def test_a_rewind_to_the_start_empties_the_phase(writer: MetricsWriter, metrics_path: Path) -> None:
    writer.append([("p", step, {"loss": 1.0}) for step in range(10)])
    assert writer.rewind("p", {}) == 10
    assert writer.rewind("never logged", {}) == 0
    assert points(metrics_path) == []


# --- buckets --------------------------------------------------------------------------------------------


def buckets(path: Path, first: int, last: int, n: int) -> list[BucketRow]:
    return ask(path, queries.buckets(series(path).id, first, last, n))


def test_buckets_show_peaks_and_broken_values(writer: MetricsWriter, metrics_path: Path) -> None:
    values = [1.0, 9.0, math.nan, 2.0, math.inf, math.nan, 3.0, -math.inf]
    writer.append([("p", step, {"loss": value}) for step, value in enumerate(values)])
    rows = buckets(metrics_path, 0, 7, 2)
    assert rows == [
        BucketRow(first_step=0, last_step=3, count=4, low=1.0, high=9.0, last=2.0, broken=1),
        BucketRow(first_step=4, last_step=7, count=4, low=3.0, high=3.0, last=3.0, broken=3),
    ]
    only_broken = buckets(metrics_path, 4, 5, 1)
    assert only_broken == [
        BucketRow(first_step=4, last_step=5, count=2, low=None, high=None, last=None, broken=2)
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    logged=st.dictionaries(st.integers(-50, 200), FLOATS, max_size=60),
    first=st.integers(-60, 200),
    span=st.integers(0, 250),
    n=st.integers(1, 40),
)
def test_buckets_agree_with_a_plain_loop(
    writer: MetricsWriter, metrics_path: Path, logged: dict[int, float], first: int, span: int, n: int
) -> None:
    logged = {0: 0.0, **logged}
    writer.rewind("p", {})
    writer.append([("p", step, {"loss": value}) for step, value in logged.items()])
    expected = []
    for number in range(n):
        low, high = first + number * (span + 1) // n, first + (number + 1) * (span + 1) // n
        inside = sorted(step for step in logged if low <= step < high)
        finite = [logged[step] for step in inside if math.isfinite(logged[step])]
        if inside:
            row = BucketRow(
                first_step=inside[0],
                last_step=inside[-1],
                count=len(inside),
                low=min(finite, default=None),
                high=max(finite, default=None),
                last=finite[-1] if finite else None,
                broken=len(inside) - len(finite),
            )
            expected.append(row)
    assert buckets(metrics_path, first, first + span, n) == expected


@pytest.mark.parametrize(
    ("first", "last", "n"), [(5, 4, 3), (0, 9, 0), (0, 9, -1), (100, 200, 5), (1 << 70, 1 << 71, 2)]
)
def test_no_range_no_buckets(
    writer: MetricsWriter, metrics_path: Path, first: int, last: int, n: int
) -> None:
    writer.append([("p", step, {"loss": 1.0}) for step in range(10)])
    assert buckets(metrics_path, first, last, n) == []


# --- heartbeat ------------------------------------------------------------------------------------------


def test_the_heartbeat_is_one_row_and_survives_odd_numbers(writer: MetricsWriter, metrics_path: Path) -> None:
    assert ask(metrics_path, queries.heartbeat()) == []
    writer.heartbeat(beat())
    writer.heartbeat(beat(step=4, status="\udcff", eta_seconds=math.inf, steps_per_second=math.nan))
    (found,) = ask(metrics_path, queries.heartbeat())
    assert (found.step, found.status, found.eta_seconds, found.steps_per_second) == (4, "\\udcff", None, 0.0)
    writer.heartbeat(beat(eta_seconds=None))
    assert ask(metrics_path, queries.heartbeat()) == [beat(eta_seconds=None)]


# --- durability -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act", [MetricsWriter.commit_durably, lambda writer: writer.rewind("p", {"loss": 1})]
)
def test_a_durable_commit_changes_something_under_full(
    writer: MetricsWriter, act: Callable[[MetricsWriter], object]
) -> None:
    writer.append([("p", step, {"loss": 1.0}) for step in range(3)])
    assert one_value(writer._connection, "PRAGMA synchronous") == 1
    changes, seen = writer._connection.total_changes, list[str]()
    writer._connection.set_trace_callback(seen.append)
    act(writer)
    writer._connection.set_trace_callback(None)
    full, begin, *body, commit, normal = seen
    assert (full, begin) == ("PRAGMA synchronous=FULL", "BEGIN IMMEDIATE")
    assert (commit, normal) == ("COMMIT", "PRAGMA synchronous=NORMAL")
    assert not any("PRAGMA" in statement for statement in body)
    assert writer._connection.total_changes > changes  # a commit without a change syncs nothing
    assert one_value(writer._connection, "PRAGMA synchronous") == 1


def test_a_durable_commit_that_fails_leaves_the_writer_as_it_was(metrics_path: Path, impatient: None) -> None:
    with closing(MetricsWriter(metrics_path)) as one, closing(MetricsWriter(metrics_path)) as other:
        with sqlite.transaction(other._connection), pytest.raises(sqlite.OperationalError, match="locked"):
            one.commit_durably()
        assert one_value(one._connection, "PRAGMA synchronous") == 1
        one.commit_durably()


def test_another_thread_may_not_use_it(writer: MetricsWriter) -> None:
    caught: list[BaseException] = []

    def use() -> None:
        try:
            writer.append([("p", 1, {"loss": 1.0})])
        except sqlite.Error as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(caught) == 1


def test_closing_leaves_one_private_file(metrics_path: Path) -> None:
    writer = MetricsWriter(metrics_path)
    writer.append([("p", 1, {"loss": 1.0})])
    writer.close()
    assert [entry.name for entry in metrics_path.parent.iterdir()] == [metrics_path.name]
    assert metrics_path.stat().st_mode & 0o777 == 0o600


def test_closing_beside_a_reader_empties_the_log(metrics_path: Path) -> None:
    writer = MetricsWriter(metrics_path)
    writer.append([("p", step, {"loss": 1.0}) for step in range(1000)])
    with closing(sqlite.open_reader(metrics_path)) as reader:
        assert len(fetch(reader, queries.series())) == 1
        writer.close()
        assert metrics_path.with_name("metrics.db-wal").stat().st_size == 0
