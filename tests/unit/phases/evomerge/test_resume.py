"""An evolution that ends anywhere goes on where it stood: nothing is measured twice, and it ends the same."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import forge.phases
from forge import durable
from forge.engine import Engine
from forge.engine.population import RegistryPopulation
from forge.home import Home
from forge.phases.evomerge.measure import Examiner
from forge.registry import IndividualRow, State, population, queries
from tests.unit.engine.rig import points
from tests.unit.phases.branches import Branching, evolving
from tests.unit.phases.evomerge.victim import Stops

VICTIM = Path(__file__).with_name("victim.py")
ROOT = VICTIM.parents[4]


@dataclass
class Attempts:
    """Sessions of one configuration, run until they are ended."""

    place: Path
    engine: Engine

    def create(self) -> str:
        return self.engine.create(evolving(self.place / "text"))

    def run(self, session: str, place: str = "", count: int = 0) -> State | None:
        """Host it here, to its end or to a place where the training thread is gone; how it stands then."""

        def gone() -> None:
            raise SystemExit

        stops = Stops(self.notes(session), place, count, gone)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forge.phases, "PIPELINE", {**forge.phases.PIPELINE, "pretrain": Branching})
            patch.setattr(Examiner, "ask", stops.ask(Examiner.ask))
            patch.setattr(RegistryPopulation, "measured", stops.record(RegistryPopulation.measured))
            run = self.engine.host(session)
            assert run.wait(120)
        return run.outcome

    def kill(self, session: str, count: int) -> None:
        """Run it in a process that is killed before so many measurements."""
        done = subprocess.run(
            [sys.executable, VICTIM, self.engine.home.root, session, self.notes(session), str(count)],
            check=False, timeout=120, env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL

    def notes(self, session: str) -> Path:
        return self.place / f"{session}.notes"

    def measured(self, session: str) -> Counter[str]:
        return Counter(self.notes(session).read_text().split())

    def rows(self, session: str) -> list[IndividualRow]:
        return self.engine.registry.fetch(population.individuals(session, "evomerge"))

    def outcome(self, session: str) -> Outcome:
        """All that it leaves, without ids and times."""
        paths, registry = self.engine.home.session(session), self.engine.registry
        (model,) = [m for m in registry.fetch(queries.models(session, 9)) if m.phase == "evomerge"]
        weights = load_file(paths.root / model.path / "model.safetensors")
        run = registry.one(queries.latest_phase_run(session, "evomerge"))
        assert run is not None
        assert run.report is not None
        timed = ("seconds", "peak_memory_bytes")
        return Outcome(
            [
                (row.name, row.kind, row.generation, row.genome, row.fitness, row.metrics)
                for row in self.rows(session)
            ],
            {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in weights.items()},
            {key: value for key, value in run.report.items() if key not in timed},
            points(paths.metrics, "evomerge"),
        )


@dataclass(frozen=True)
class Outcome:
    """What two runs are compared by."""

    candidates: list[tuple[Any, ...]]
    weights: dict[str, str]
    report: dict[str, Any]
    log: dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def tensor_settings() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempts]:
    place = tmp_path_factory.mktemp("evolution")
    with pytest.MonkeyPatch.context() as patch:
        # These tests end processes, not machines.
        patch.setattr(durable, "sync", lambda descriptor: None)
        engine = Engine(Home(place / "home"))
        yield Attempts(place, engine)
        engine.shutdown()


@pytest.fixture(scope="module")
def expected(attempts: Attempts) -> Outcome:
    """What the uninterrupted run leaves."""
    session = attempts.create()
    assert attempts.run(session) is State.COMPLETED
    found, measured = attempts.outcome(session), attempts.measured(session)
    steps = evolving(attempts.place / "text").evomerge.total_steps
    assert len(found.candidates) == len(measured) == steps
    assert set(measured.values()) == {1}
    assert [step for step, _ in found.log["fitness"]] == list(range(1, steps + 1))
    return found


def test_killed_between_record_and_measurement_it_ends_the_same(
    attempts: Attempts, expected: Outcome
) -> None:
    session = attempts.create()
    attempts.kill(session, 33)
    rows = attempts.rows(session)
    # In the first generation of the search, of which the first is measured, and not the second.
    assert [row.fitness is not None for row in rows[-4:]] == [True, False, False, False]
    assert {row.generation for row in rows[-4:]} == {1}
    assert attempts.run(session) is State.COMPLETED
    assert attempts.outcome(session) == expected
    assert set(attempts.measured(session).values()) == {1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_ended_before_a_fitness_is_recorded_that_one_alone_is_measured_again(
    attempts: Attempts, expected: Outcome
) -> None:
    session = attempts.create()
    assert attempts.run(session, "after", 20) is State.INTERRUPTED
    assert attempts.run(session, "before", 3) is State.INTERRUPTED
    assert attempts.run(session) is State.COMPLETED
    assert attempts.outcome(session) == expected
    assert [count for count in attempts.measured(session).values() if count > 1] == [2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_without_its_checkpoints_nothing_is_measured_again_either(
    attempts: Attempts, expected: Outcome
) -> None:
    session = attempts.create()
    assert attempts.run(session, "before", 30) is State.INTERRUPTED
    for checkpoint in attempts.engine.home.session(session).checkpoints("evomerge").iterdir():
        for file in checkpoint.iterdir():
            file.write_bytes(file.read_bytes()[:-1])
    assert attempts.run(session) is State.COMPLETED
    assert attempts.outcome(session) == expected
    assert set(attempts.measured(session).values()) == {1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_comparison_would_see_another_search(
    attempts: Attempts, expected: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: resumed with generations that are not told what the others found, it ends otherwise."""
    from forge.phases.evomerge.search import Evolution, with_fitness

    session = attempts.create()
    assert attempts.run(session, "before", 34) is State.INTERRUPTED

    def forget(self: Evolution, state: dict[str, Any]) -> None:
        for _ in state["told"]:
            self.take(with_fitness(self.due, 0.01, {"bpb": 1.0}))

    monkeypatch.setattr(Evolution, "load_state_dict", forget)
    assert attempts.run(session) is State.COMPLETED
    assert attempts.outcome(session).candidates != expected.candidates
