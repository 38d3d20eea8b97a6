"""`kill -9` at random moments, and what a session leaves is bit for bit what it would have left.

Every kill is a real SIGKILL of a real process; every resume is a fresh one. Of the kills at least five hit a
checkpoint while it is written: those the process gives itself, with half a file on the disk, before the
rename, or behind it. The others come from outside after a random time. The seed is printed; with
`FORGE_KILL_SEED=…` the same moments are drawn again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from forge.engine import Engine
from forge.home import Home
from forge.locks import is_held
from forge.registry import State
from tests.unit.engine.killing import (
    Outcome,
    assert_each_step_once,
    chosen_seed,
    config,
    half_written,
    kill_from_outside,
    killed,
    outcome,
    run_to_end,
    start,
    write_text,
)
from tests.unit.engine.rig import Rig

pytestmark = pytest.mark.proofs

STEPS = 40
KILLS, IN_A_SAVE = 20, 8
PER_SESSION = 5
SHAPE = {"d_model": 32, "n_layers": 2, "d_ff": 64}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = Engine(Home(tmp_path_factory.mktemp("kill") / "home"))
    yield opened
    opened.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def whole(engine: Engine, corpus: str) -> tuple[Outcome, float]:
    """The uninterrupted run in a process of its own, and how many seconds it took."""
    session = engine.create(config(corpus, STEPS, **SHAPE), "uninterrupted")
    process = start(engine.home, session)
    began = time.monotonic()
    process.communicate()
    seconds = time.monotonic() - began
    found = outcome(engine, session)
    assert_each_step_once(found, STEPS)
    return found, seconds


def test_killed_at_random_moments_it_is_the_same_run(
    engine: Engine, corpus: str, whole: tuple[Outcome, float]
) -> None:
    seed = chosen_seed()
    draws = random.Random(seed)
    expected, seconds = whole
    print(f"\nseed {seed}; the uninterrupted run takes {seconds:.1f} s")
    places = [draws.choice(["file", "file", "rename", "renamed"]) for _ in range(IN_A_SAVE)]
    places += ["outside"] * (KILLS - IN_A_SAVE)
    draws.shuffle(places)
    kills, in_a_save, number = 0, 0, 0
    while kills < KILLS or in_a_save < 5:
        number += 1
        session = engine.create(config(corpus, STEPS, **SHAPE), f"killed-{number}")
        rig = Rig(engine, session)
        for _ in range(PER_SESSION):
            place = places.pop() if places else draws.choice(["file", "outside"])
            hit, where = kill(rig, place, draws, seconds)
            kills += hit
            in_a_save += hit and place != "outside"
            print(f"  {rig.session.name}: {where}; {kills} kills, {in_a_save} of them in a save")
            if not hit:
                break
        else:
            run_to_end(engine.home, session)
        assert outcome(engine, session) == expected
        assert half_written(rig.paths) == []
        assert_each_step_once(outcome(engine, session), STEPS)
        print(f"  {rig.session.name}: equal to the uninterrupted run, bit for bit")
    print(f"{kills} kills, {in_a_save} of them inside a checkpoint save, {number} sessions, all equal")


def kill(rig: Rig, place: str, draws: random.Random, seconds: float) -> tuple[bool, str]:
    """One attempt that is killed; whether it was, and where."""
    home = rig.engine.home
    if place == "outside":
        after = draws.uniform(0.0, 0.6 * seconds)
        hit = kill_from_outside(home, rig.session_id, after)
        where = f"kill -9 after {after:.2f} s"
    else:
        count = draws.randrange(1, 25 if place == "file" else 7)
        hit = killed(home, rig.session_id, place, count)
        where = f"kill -9 in the save of a checkpoint, {place} {count}"
        if hit and place != "renamed":
            # The proof that it was inside a save: what was being written lies about.
            assert len(half_written(rig.paths)) == 1
    if hit:
        assert not is_held(rig.paths.lease)
        # The run's last word was written, and only the process was left to end.
        hit = rig.session.state is not State.COMPLETED
    if hit:
        assert rig.session.state in ("created", "running", "interrupted")
        rig.engine.reconcile()
        step = {phase: rig.phase(phase).step for phase in ("pretrain", "forging")}
        where += f", then at pretrain {step['pretrain']}, forging {step['forging']}"
    return hit, where if hit else where + " came too late: it had ended"


def test_generating_text_in_the_same_process_changes_nothing(
    engine: Engine, corpus: str, whole: tuple[Outcome, float]
) -> None:
    session = engine.create(config(corpus, STEPS, **SHAPE), "beside")
    said = run_to_end(engine.home, session, "beside", 5)
    assert said[0] == "generated", "nothing was generated beside the run"
    assert outcome(engine, session) == whole[0]


def test_killed_while_a_model_is_handed_on_it_is_the_same_run(
    engine: Engine, corpus: str, whole: tuple[Outcome, float]
) -> None:
    session = engine.create(config(corpus, STEPS, **SHAPE), "handed-on")
    for count in (1, 2, 4):
        assert killed(engine.home, session, "model", count)
        engine.reconcile()
    run_to_end(engine.home, session)
    assert outcome(engine, session) == whole[0]
    models = [entry.name for entry in (engine.home.session(session).root / "models").iterdir()]
    assert len(models) == 2, "orphans of the killed attempts are left"


def test_stopped_by_a_request_of_another_process_and_resumed_it_is_the_same(
    engine: Engine, corpus: str, whole: tuple[Outcome, float]
) -> None:
    """A request by row, as `forge stop` makes it, to a session in another process."""
    session = engine.create(config(corpus, STEPS, **SHAPE), "stopped")
    process = start(engine.home, session)
    rig = Rig(engine, session)
    deadline = time.monotonic() + 60
    while rig.session.state != "running" or not rig.checkpoints():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    command = engine.request(session, "stop")
    said, _ = process.communicate(timeout=60)
    assert said.startswith("stopped"), said
    state, text = rig.answer(command)
    assert (state, (text or "").split(" at ")[0]) == ("done", "stopped, with a checkpoint")
    run_to_end(engine.home, session)
    assert outcome(engine, session) == whole[0]
