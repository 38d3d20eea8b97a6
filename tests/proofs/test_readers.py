"""Proof of the registry: eight readers beside a training run lock nobody out and cost it at most 5 %.

The run is the real `forge run`, a reader is the screen's own service polling at 4 Hz in a process of its own,
and somebody else writes to the same registry all the while. `FORGE_PROOF_SECONDS` shortens the first proof.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.readers import Readers
from benchmarks.table import tell_noise
from forge.engine import Engine
from forge.engine.wal import LIMIT_BYTES, wal_bytes
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import Error, Registry, State, edits, queries
from forge.validate.noise import Noise
from forge.validate.pairs import Comparison, alternating, summarise
from forge.validate.readers import total
from forge.validate.training import LOG, Training
from tests.unit.registry.foreign import foreign_reader

SECONDS = float(os.environ.get("FORGE_PROOF_SECONDS", "600"))
READERS = 8
PEOPLE = 2
WRITE_SECONDS = 0.02
CHECKPOINT_NOTES = 200
"""Notes between two requests for a checkpoint."""
PAIRS = 20
TURN_SECONDS = 6.0

pytestmark = pytest.mark.proofs


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    """A run that also writes checkpoints, and so to the registry, every few seconds."""
    with Training.headless(Home(tmp_path / "home"), "runtime.checkpoint_every=25") as run:
        yield run


class Person(threading.Thread):
    """Writes to the registry as another program does: notes, and requests for checkpoints."""

    def __init__(self, home: Home, session_id: str, seconds: float) -> None:
        super().__init__(name="person")
        self._home = home
        self._session_id = session_id
        self._seconds = seconds
        self.notes = 0
        self.requests = 0
        self.errors: list[str] = []

    def run(self) -> None:
        """Notes all the time, a request where one is due."""
        engine = Engine(self._home)
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            try:
                self._act(engine)
            except (ForgeError, Error) as error:
                self.errors.append(str(error))
            time.sleep(WRITE_SECONDS)
        engine.registry.close()

    def _act(self, engine: Engine) -> None:
        note = f"note {self.notes}"
        engine.registry.write(lambda c: edits.set_note(c, self._session_id, note, time.time()))
        self.notes += 1
        if self.requests * CHECKPOINT_NOTES < self.notes:
            engine.request(self._session_id, "checkpoint")
            self.requests += 1


def test_nobody_is_locked_out_in_ten_minutes(training: Training) -> None:
    training.go_on()
    home, session_id = training.home, training.session_id
    people = [Person(home, session_id, SECONDS) for _ in range(PEOPLE)]
    with Readers(home, session_id, READERS) as readers:
        with readers.working(READERS):
            for person in people:
                person.start()
            for person in people:
                person.join()
        found = total(readers.reports())
    with Registry.open(home) as registry:
        session = registry.one(queries.session(session_id))
        events = registry.fetch(queries.latest_events(session_id, 10_000))
        steps = registry.one(queries.latest_phase_run(session_id, "pretrain"))
    notes, requests = (sum(getattr(person, name) for person in people) for name in ("notes", "requests"))
    refused = [error for person in people for error in person.errors]
    trouble = [event.message for event in events if event.level != "info" and event.kind != "epochs"]
    log = home.session(session_id).log.read_text("utf-8")
    print(
        f"\n{SECONDS:g} s: {found.polls} polls of {READERS} readers, {found.snapshots} with news; "
        f"{notes} notes and {requests} requests of {PEOPLE} other writers; last checkpoint at step "
        f"{steps.step if steps else 0}; errors: {len(found.errors)} in the readers, {len(refused)} in the "
        f"other writers, {len(trouble)} in the run"
    )
    assert (found.errors, refused, trouble) == ([], [], [])
    assert "locked" not in log
    assert b"locked" not in (home.root / LOG).read_bytes()
    assert session is not None
    assert session.state is State.RUNNING
    assert training.process.poll() is None
    # It was a load: at least half of the polls that 4 Hz would give, and several writes a second beside them.
    assert found.polls > READERS * SECONDS * 4 / 2
    assert notes > 5 * SECONDS
    assert steps is not None
    assert steps.step > 0


def test_eight_readers_cost_at_most_five_percent(tmp_path: Path) -> None:
    with (
        Training.headless(Home(tmp_path / "home")) as run,
        Readers(run.home, run.session_id, READERS) as readers,
    ):
        found, noise = _compare(run, readers)
        errors = total(readers.reports()).errors
    tell_noise("readers", noise)
    print(
        f"\na step beside {READERS} readers {found.ours * 1e3:.1f} ms, alone {found.peer * 1e3:.1f} ms: "
        f"ratio {found.ratio:.3f}, 95 % interval {found.low:.3f}–{found.high:.3f}, {PAIRS} pairs"
    )
    assert errors == []
    assert found.ratio <= 1.05


def test_a_foreign_cursor_is_named_and_its_end_shrinks_the_log(training: Training) -> None:
    training.go_on()
    home, session_id = training.home, training.session_id
    with Registry.open(home) as registry, foreign_reader(home.registry, "phase_run") as reader:

        def told() -> list[str]:
            events = registry.fetch(queries.latest_events(session_id, 1000))
            return [event.message for event in events if event.kind == "wal"]

        number = 0
        while wal_bytes(home.registry) <= LIMIT_BYTES + (8 << 20):
            # Long notes, so that it takes a moment and not the night.
            note, number = str(number) * 50_000, number + 1
            registry.write(partial(edits.set_note, session_id=session_id, note=note))
            assert number < 5000, "the log does not grow, so nobody holds it"
        largest = wal_bytes(home.registry)
        wait_until(lambda: told() != [], 30)
        assert f"(pid {reader.pid})" in told()[0]
        assert "keeps the write-ahead log of registry.db from being emptied" in told()[0]
        reader.communicate()
        began = time.monotonic()
        wait_until(lambda: wal_bytes(home.registry) <= LIMIT_BYTES, 10)
        print(f"\n{told()[0]}; {largest / 1e6:.0f} MB, below {time.monotonic() - began:.1f} s after its end")
    assert training.process.poll() is None


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    """Wait for something, and fail when it does not come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


def _compare(run: Training, readers: Readers) -> tuple[Comparison, Noise]:
    noise, times = Noise(), {0: list[float](), READERS: list[float]()}

    def turn(count: int) -> None:
        beside = partial(readers.working, count)
        times[count].append(noise.least(lambda: run.step_seconds(TURN_SECONDS, beside)))

    alternating([partial(turn, count) for count in times], PAIRS)
    return summarise(times[READERS], times[0]), noise
