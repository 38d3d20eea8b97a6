"""200 times `kill -9` at random moments of a real run: nothing corrupt or lost, no garbage, the same run.

Every kill is a real SIGKILL from outside of a real process, and every resume is a fresh one. After each, a
fresh look reconciles, and the audit must find nothing at all. At its end a run is bit for bit what it would
have been. `FORGE_SOAK_KILLS=20` kills less often; the seed is printed, `FORGE_KILL_SEED=…` draws it again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from forge.audit import audit
from forge.engine import Engine
from forge.home import Home
from forge.locks import is_held
from forge.registry import Heartbeat, State, fetch, open_reader, queries
from forge.retention import reconcile
from tests.unit.engine.killing import (
    assert_each_step_once,
    chosen_seed,
    config,
    files,
    kill_from_outside,
    outcome,
    run_to_end,
    write_text,
)

pytestmark = pytest.mark.soak

KILLS = int(os.environ.get("FORGE_SOAK_KILLS", "200"))
STEPS = 60
PER_SESSION = 20
SHAPE = {"d_model": 32, "n_layers": 2, "d_ff": 64}


@dataclass
class Tally:
    """What was seen."""

    kills: int = 0
    sessions: int = 0
    repaired: int = 0
    """Sentences of the reconciler: files of a killed process deleted, records matched."""
    repeated: int = 0
    """Steps that were done, lost with the process and done again: those behind the last checkpoint."""
    checkpoints: int = 0
    """Verified by their hashes, over all audits."""


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = Engine(Home(tmp_path_factory.mktemp("soak") / "home"))
    yield opened
    opened.shutdown()


def test_killed_again_and_again_it_is_the_same_run(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seed, began, tally = chosen_seed(), time.monotonic(), Tally()
    draws = random.Random(seed)
    corpus = write_text(tmp_path_factory.mktemp("text"))
    whole = engine.create(config(corpus, STEPS, **SHAPE), "undisturbed")
    start = time.monotonic()
    run_to_end(engine.home, whole)
    seconds = time.monotonic() - start
    expected, left = outcome(engine, whole), files(engine.home.session(whole))
    assert_each_step_once(expected, STEPS)
    print(f"\nseed {seed}; the undisturbed run takes {seconds:.1f} s, {KILLS} kills to come")
    while tally.kills < KILLS:
        tally.sessions += 1
        session = engine.create(config(corpus, STEPS, **SHAPE), f"killed-{tally.sessions}")
        seconds = soak(engine, session, seconds, draws, tally)
        found = outcome(engine, session)
        assert found == expected
        assert_each_step_once(found, STEPS)
        assert files(engine.home.session(session)) == left, "it left other files than the undisturbed run"
        print(f"  killed-{tally.sessions}: equal, bit for bit; {tally.kills} kills so far", flush=True)
    print(
        f"{tally.kills} kills in {tally.sessions} sessions, {time.monotonic() - began:.0f} s: 0 corrupt "
        f"({tally.checkpoints} checkpoints verified), 0 steps lost beyond the last checkpoint "
        f"({tally.repeated} done again), 0 bytes of garbage ({tally.repaired} repairs), identical weights"
    )


def soak(engine: Engine, session: str, seconds: float, draws: random.Random, tally: Tally) -> float:
    """Kill one session up to so many times, then let it come to its end; how long a whole run may take."""
    for _ in range(PER_SESSION):
        after = draws.uniform(0, 0.5) * seconds
        if engine.session(session).state is State.COMPLETED or tally.kills == KILLS:
            break
        if not kill_from_outside(engine.home, session, after):
            # It was faster than its beginning was: what comes later must be struck earlier.
            seconds *= 0.8
            break
        tally.kills += 1
        look(engine, session, tally)
    if engine.session(session).state is not State.COMPLETED:
        run_to_end(engine.home, session)
    assert audit(engine.home).findings == []
    return seconds


def look(engine: Engine, session: str, tally: Tally) -> None:
    """What a fresh look finds after a kill: everything that was recorded, and nothing else."""
    home = engine.home
    assert not is_held(home.session(session).lease)
    before = recorded(engine, session)
    engine.reconcile()
    result = reconcile(home, engine.registry)
    assert result.problems == []
    tally.repaired += len(result.repaired)
    found = audit(home)
    assert found.findings == []
    tally.checkpoints += found.checkpoints
    after = recorded(engine, session)
    for phase, step in before.items():
        assert after.get(phase, -1) >= step, f"the checkpoint of {phase}, step {step}, is lost"
    tally.repeated += sum(max(0, beat.step - after.get(beat.phase, 0)) for beat in beats(engine, session))


def recorded(engine: Engine, session: str) -> dict[str, int]:
    """The newest recorded checkpoint of each phase."""
    rows = engine.registry.fetch(queries.checkpoints(session, None))
    return {row.phase: row.step for row in sorted(rows, key=lambda row: row.step)}


def beats(engine: Engine, session: str) -> list[Heartbeat]:
    """How far the killed process had said that it was."""
    metrics = engine.home.session(session).metrics
    if not metrics.exists():
        return []
    with closing(open_reader(metrics)) as reader:
        return fetch(reader, queries.heartbeat())
