"""From `log` to committed rows: nothing is lost in silence, and nothing kills the thread in between."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.engine.telemetry import CHUNK, MetricsStalledError, Recorder, Telemetry
from forge.errors import RegistryError
from forge.registry import Error, Heartbeat, MetricsWriter
from tests.unit.engine.rig import points


class Disk:
    """A metrics writer whose disk can be made to stall; `real` writes for it."""

    def __init__(self, path: Path) -> None:
        self.real = MetricsWriter(path)
        self.path = path
        self.stall: Exception | None = None
        self.tries = 0

    def append(self, records: Any) -> int:
        self.tries += 1
        if self.stall is not None:
            raise self.stall
        return self.real.append(records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Bench:
    """A recorder whose ticks the test makes itself, on its own thread."""

    def __init__(self, path: Path, limit: int = 1 << 16) -> None:
        self.telemetry = Telemetry(limit)
        self.disk = Disk(path)
        self.notes: list[tuple[str, str, str]] = []
        self.duties = 0
        self.duty: Callable[[], None] = lambda: None
        self.recorder = Recorder(self.telemetry, lambda: self.writer, self._duty, self._note)

    @property
    def writer(self) -> MetricsWriter:
        return self.disk  # type: ignore[return-value]

    def tick(self) -> None:
        self.recorder._tick(self.writer)

    def points(self) -> dict[str, list[tuple[int, float]]]:
        return points(self.disk.path, "p")

    def _duty(self) -> None:
        self.duties += 1
        self.duty()

    def _note(self, kind: str, message: str, *, level: str) -> None:
        self.notes.append((kind, message, level))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "metrics.db")
    yield made
    made.disk.real.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Bench]:
    """One whose queue is full after four records."""
    made = Bench(tmp_path / "metrics.db", limit=4)
    yield made
    made.disk.real.close()


def test_every_point_arrives_in_order(bench: Bench) -> None:
    for step in range(2 * CHUNK + 5):
        bench.telemetry.log("p", step, {"loss": step / 2})
    bench.tick()
    assert bench.points()["loss"] == [(step, step / 2) for step in range(2 * CHUNK + 5)]
    assert bench.telemetry.coalesced == 0


def test_a_full_queue_merges_counts_and_keeps_the_last(small: Bench) -> None:
    for step in range(10):
        small.telemetry.log("p", step, {"loss": float(step), "lr": 0.1})
    assert small.telemetry.coalesced == 2 * 5  # steps 4 … 8 of two series
    small.tick()
    assert small.points() == {
        "loss": [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (9, 9.0)],
        "lr": [(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.1), (9, 0.1)],
    }


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_merging_never_hides_a_broken_value(small: Bench, broken: float) -> None:
    for step in range(4):
        small.telemetry.log("p", step, {"loss": 1.0})
    for step, value in enumerate([1.0, broken, 3.0, 4.0], 4):
        small.telemetry.log("p", step, {"loss": value})
    small.tick()
    (step, value) = small.points()["loss"][-1]
    assert step == 5
    assert value == broken or (math.isnan(value) and math.isnan(broken))
    assert small.telemetry.coalesced == 3


def test_a_reader_that_follows_misses_no_merged_point(small: Bench) -> None:
    # A reader asks for steps after the last it has seen, so a merged point must never come late.
    for step in range(6):
        small.telemetry.log("p", step, {"loss": float(step)})
    taken = small.telemetry.take(4)
    small.telemetry.log("p", 6, {"loss": 6.0})  # there is room again, but step 5 still waits merged
    taken += small.telemetry.take() + small.telemetry.take()
    small.telemetry.log("p", 7, {"loss": 7.0})
    taken += small.telemetry.take()
    assert [step for _, step, _ in taken] == [0, 1, 2, 3, 6, 7]


def test_the_count_is_exact_whatever_the_interleaving(small: Bench) -> None:
    logged = 0
    for burst in (3, 9, 1, 20, 4):
        for _ in range(burst):
            small.telemetry.log("p", logged, {"loss": 1.0})
            logged += 1
        small.tick()
    assert len(small.points()["loss"]) + small.telemetry.coalesced == logged


def test_nothing_is_lost_between_concurrent_producers(tmp_path: Path) -> None:
    telemetry = Telemetry()
    path = tmp_path / "metrics.db"
    recorder = Recorder(telemetry, lambda: MetricsWriter(path), lambda: None)
    recorder.start()

    def produce(name: str) -> None:
        for step in range(5000):
            telemetry.log("p", step, {name: float(step)})

    threads = [threading.Thread(target=produce, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    expected = [(step, float(step)) for step in range(5000)]
    assert points(path, "p") == dict.fromkeys("abcd", expected)
    assert telemetry.coalesced == 0


# --- a disk that stalls -------------------------------------------------------------------------------


@pytest.mark.parametrize("stall", [Error("database or disk is full"), OSError(28, "No space left on device")])
def test_a_stall_is_told_once_and_ends_with_everything_written(bench: Bench, stall: Exception) -> None:
    bench.disk.stall = stall
    for step in range(3):
        bench.telemetry.log("p", step, {"loss": float(step)})
        bench.tick()
    assert bench.recorder.stalled == str(stall)
    assert [(kind, level) for kind, _, level in bench.notes] == [("stall", "warning")]
    bench.disk.stall = None
    bench.tick()
    assert not bench.recorder.stalled
    assert bench.notes[1] == ("stall", "metrics are written again; 0 points were merged so far", "info")
    assert bench.points()["loss"] == [(0, 0.0), (1, 1.0), (2, 2.0)]


def ask(bench: Bench) -> Callable[[], Any]:
    """Ask for the last steps from another thread; gives what returns or raises the answer."""
    answers: list[Any] = []

    def call() -> None:
        try:
            answers.append(bench.recorder.call(lambda writer: writer.last_steps("p")))
        except Exception as error:  # noqa: BLE001 - the answer, to be raised by the test
            answers.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert bench.telemetry.wake.wait(30)

    def answer() -> Any:
        thread.join(30)
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    return answer


def test_a_job_sees_everything_logged_before_it(small: Bench) -> None:
    for step in range(10):
        small.telemetry.log("p", step, {"loss": 1.0})
    small.telemetry.wake.clear()
    answer = ask(small)
    small.tick()
    assert answer() == {"loss": 9}


def test_a_job_fails_while_points_wait_and_the_thread_lives_on(bench: Bench) -> None:
    bench.disk.stall = OSError(28, "No space left on device")
    bench.telemetry.log("p", 1, {"loss": 1.0})
    answer = ask(bench)
    bench.tick()
    with pytest.raises(MetricsStalledError, match=r"metrics.db cannot be written: .*No space left"):
        answer()
    bench.disk.stall = None
    bench.telemetry.wake.clear()
    answer = ask(bench)
    bench.tick()
    assert answer() == {"loss": 1}


def test_a_job_whose_own_write_fails_says_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(phase: str) -> dict[str, int]:
        raise Error("database or disk is full")

    monkeypatch.setattr(bench.disk.real, "last_steps", full)
    answer = ask(bench)
    bench.tick()
    with pytest.raises(MetricsStalledError, match="disk is full"):
        answer()


# --- what must not end the thread -----------------------------------------------------------------------


def test_a_record_that_can_never_be_written_is_told_and_the_others_are(bench: Bench) -> None:
    bench.telemetry.log("p", 1 << 70, {"loss": 1.0})
    bench.tick()
    bench.telemetry.log("p", 2, {"loss": 2.0})
    answer = ask(bench)
    bench.tick()
    assert bench.points()["loss"] == [(2, 2.0)]
    assert [(kind, level) for kind, _, level in bench.notes] == [("metrics", "error")]
    with pytest.raises(RuntimeError, match="could not be written: step 1180591620717411303424"):
        answer()  # a checkpoint must not promise a log that is not there


def test_a_duty_that_fails_is_told_once_and_done_again(bench: Bench) -> None:
    def locked() -> None:
        raise RegistryError("the registry is locked")

    bench.duty = locked
    for _ in range(3):
        bench.tick()
    assert bench.duties == 3
    assert bench.notes == [("commands", "requests cannot be read now: the registry is locked", "warning")]
    bench.duty = lambda: None
    bench.tick()
    bench.duty = locked
    bench.tick()
    assert len(bench.notes) == 2


def test_a_note_that_fails_is_told_by_the_next_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(kind: str, message: str, *, level: str) -> None:
        raise ValueError("the journal is broken")

    monkeypatch.setattr(bench.recorder, "_note", broken)
    bench.disk.stall = Error("full")
    bench.telemetry.log("p", 1, {"loss": 1.0})
    bench.tick()
    bench.disk.stall = None
    answer = ask(bench)
    bench.tick()
    with pytest.raises(RuntimeError, match="the journal is broken"):
        answer()


def test_commands_have_their_turn_however_fast_points_come(bench: Bench) -> None:
    def append(records: Any) -> int:
        bench.telemetry.log("p", bench.disk.tries, {"loss": 1.0})  # one more for each that is written
        bench.disk.tries += 1
        assert bench.disk.tries < 100, "it only ever drains"
        return 1

    bench.disk.append = append  # type: ignore[method-assign]
    bench.telemetry.log("p", 0, {"loss": 1.0})
    bench.tick()
    assert bench.duties == 1


# --- beginning and end ----------------------------------------------------------------------------------


def test_a_file_that_cannot_be_opened_fails_the_start_and_hangs_nobody(tmp_path: Path) -> None:
    path = tmp_path / "metrics.db"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    recorder = Recorder(Telemetry(), lambda: MetricsWriter(path), lambda: None)
    with pytest.raises(RegistryError, match="not a database"):
        recorder.start()
    with pytest.raises(RuntimeError, match="has ended"):
        recorder.call(lambda writer: None)
    recorder.close()


def test_after_its_end_it_refuses_instead_of_hanging(tmp_path: Path) -> None:
    recorder = Recorder(Telemetry(), lambda: MetricsWriter(tmp_path / "metrics.db"), lambda: None)
    recorder.close()  # never started: nothing to do
    recorder = Recorder(Telemetry(), lambda: MetricsWriter(tmp_path / "metrics.db"), lambda: None)
    recorder.start()
    recorder.close()
    with pytest.raises(RuntimeError, match="has ended"):
        recorder.call(lambda writer: None)


def test_what_was_logged_last_is_written_before_the_end(tmp_path: Path) -> None:
    telemetry = Telemetry()
    recorder = Recorder(telemetry, lambda: MetricsWriter(tmp_path / "metrics.db"), lambda: None)
    recorder.start()
    telemetry.log("p", 1, {"loss": 1.0})
    recorder.close()
    assert points(tmp_path / "metrics.db", "p") == {"loss": [(1, 1.0)]}


def test_what_could_not_be_written_at_the_end_is_counted(tmp_path: Path) -> None:
    def open_stalled() -> Any:
        disk = Disk(tmp_path / "metrics.db")
        disk.stall = OSError(28, "No space left on device")
        return disk

    notes: list[tuple[str, str]] = []
    telemetry = Telemetry()
    telemetry.log("p", 1, {"loss": 1.0})
    recorder = Recorder(
        telemetry, open_stalled, lambda: None, lambda kind, message, *, level: notes.append((level, message))
    )
    recorder.start()
    recorder.close()
    text = "1 metric records could not be written: [Errno 28] No space left on device"
    assert notes[-1] == ("error", text)


def test_the_heartbeat_is_written_when_it_is_new(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    monkeypatch.setattr(bench.disk.real, "heartbeat", lambda beat: beats.append(beat.step))
    for step in (1, 2):
        bench.telemetry.heartbeat = Heartbeat(
            at=1.0, phase="p", step=step, total_steps=9, steps_per_second=1.0, tokens_per_second=1.0,
            eta_seconds=None, status="", coalesced=0,
        )  # fmt: skip
        bench.tick()
        bench.tick()
    assert beats == [1, 2]
