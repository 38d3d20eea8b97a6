"""Real phases, killed for real: what comes out is what would have come out.

The short form of `tests/proofs/test_kill.py`: few kills, at places that are chosen and not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from forge.data import eval_windows
from forge.engine import Engine
from forge.home import Home
from forge.optim.grokfast import Grokfast
from forge.optim.trainer import StepResult, Trainer
from forge.registry import State, queries
from tests.unit.engine.killing import (
    Outcome,
    assert_each_step_once,
    config,
    half_written,
    killed,
    outcome,
    run_to_end,
    write_text,
)
from tests.unit.engine.rig import Rig

STEPS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture
def engine(place: Path) -> Iterator[Engine]:
    """One home for all, so that the corpus is prepared once."""
    opened = Engine(Home(place / "home"))
    yield opened
    opened.shutdown()


@pytest.fixture(scope="module")
def corpus(place: Path) -> str:
    return write_text(place / "text")


@pytest.fixture(scope="module")
def expected(place: Path, corpus: str) -> Outcome:
    """What the uninterrupted run gives, hosted by this process."""
    engine = Engine(Home(place / "home"))
    session = engine.create(config(corpus, STEPS))
    assert engine.host(session).wait(120)
    found = outcome(engine, session)
    engine.shutdown()
    return found


def test_the_uninterrupted_run_is_what_it_claims_to_be(expected: Outcome) -> None:
    assert_each_step_once(expected, STEPS)
    assert {name.split()[0] for name in expected.weights} == {"pretrain", "forging"}
    assert {name.split()[1] for name in expected.log} >= {"loss", "lr", "grad_norm", "val", "lambda", "zeros"}
    assert expected.figures["forging"]["figures"]["forged"] > 0


def test_killed_in_a_file_and_behind_a_rename_it_is_the_same(
    engine: Engine, corpus: str, expected: Outcome
) -> None:
    session = engine.create(config(corpus, STEPS))
    rig = Rig(engine, session)
    assert killed(engine.home, session, "file", 3 + 1 + 4)  # the manifest of the second checkpoint
    assert engine.reconcile() == [session]
    assert rig.session.state is State.INTERRUPTED
    assert len(half_written(rig.paths)) == 1
    assert killed(engine.home, session, "renamed", 4)  # the second one of forging, before it is recorded
    run_to_end(engine.home, session)
    assert outcome(engine, session) == expected
    assert half_written(rig.paths) == []
    resumed = [text.split(";")[0] for text in rig.events("resume")]
    assert resumed == ["resumed at step 2", "resumed at step 4"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_comparison_would_see_a_state_that_is_not_put_back(
    engine: Engine, corpus: str, expected: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: resumed without Grokfast's averages, weights and losses are others."""
    session = engine.create(config(corpus, STEPS))
    steps, real = 0, Trainer.train_step

    def until_the_fifth_of_forging(trainer: Trainer, step: int, x: Tensor, y: Tensor) -> StepResult:
        nonlocal steps
        steps += 1
        if steps == STEPS + 2 * 4 + 1:
            raise SystemExit
        return real(trainer, step, x, y)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", until_the_fifth_of_forging)
        assert engine.host(session).wait(120)
    monkeypatch.setattr(Grokfast, "load_state_dict", lambda *_: None)
    assert engine.host(session).wait(120)
    found = outcome(engine, session)
    assert found.log["pretrain loss"] == expected.log["pretrain loss"]
    assert found.log["forging loss"][:5] == expected.log["forging loss"][:5]
    assert found.log["forging loss"][5:] != expected.log["forging loss"][5:]
    assert found.weights != expected.weights


def test_stopped_within_every_evaluation_once_it_is_the_same(
    engine: Engine, corpus: str, expected: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch each, of both phases, before their steps, between them and for the report."""
    session = engine.create(config(corpus, STEPS))
    real, begun = eval_windows, 0

    def stopping(*args: Any, **options: Any) -> Iterator[Any]:
        nonlocal begun
        begun += 1
        if begun in (1, 3, 5, 7, 9, 11, 13, 15, 18, 22):  # a report is measured from its beginning again
            assert engine.run is not None
            engine.run.stop("stopped by SIGTERM")
        return real(*args, **options)

    monkeypatch.setattr("forge.evals.bits.eval_windows", stopping)
    attempts = 0
    while engine.session(session).state is not State.COMPLETED:
        assert engine.host(session).wait(120)
        attempts += 1
    assert (begun, attempts) == (26, 11)
    assert outcome(engine, session) == expected


def test_stopped_in_this_process_and_resumed_it_is_the_same(
    engine: Engine, corpus: str, expected: Outcome
) -> None:
    session = engine.create(config(corpus, STEPS))
    for _ in range(3):
        # Asked before it begins: each attempt prepares, and stops before its first step at the latest.
        run = engine.host(session)
        run.stop("stopped by SIGTERM")
        assert run.wait(120)
        assert run.outcome is State.STOPPED
    assert engine.host(session).wait(120)
    assert outcome(engine, session) == expected
    (row, _) = engine.registry.fetch(queries.phase_runs(session))
    assert row.started_at is not None
