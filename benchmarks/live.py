"""Sessions to look at: one that somebody runs now, written to at 5 steps a second, and one of any length.

The writer does to the disk what the engine does, without training; the same steps go to an offline run of
wandb where its own viewer is looked at.

    python -m benchmarks.live forge HOME      # says the session's name; ends when stdin is closed
    python -m benchmarks.live wandb FOLDER    # says the run's folder
"""

from __future__ import annotations

import json
import math
import random
import select
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from forge.config import load_config
from forge.engine import Engine
from forge.engine.lease import Lease
from forge.home import Home
from forge.registry import Heartbeat, MetricsWriter, Record, Registry, State, edits

STEPS_A_SECOND = 5
HISTORY = 2_000
"""Steps that a live session has behind it."""
STEPS = 1_000_000
PHASE = "pretrain"
_BATCH = 100_000


def values(step: int) -> dict[str, float]:
    """What a training step logs."""
    return {
        "loss": 3.1 + 4.5 * math.exp(-step / 500) + random.Random(step).uniform(-0.2, 0.2),
        "lr": 3e-3,
        "grad_norm": 0.84 + 0.1 * math.sin(step / 7),
    }


def system(step: int) -> dict[str, float]:
    """What the sampler logs once a second."""
    return {
        "rss_bytes": 6e8 + 1e6 * math.sin(step / 60),
        "ram_used_bytes": 3e9,
        "ram_total_bytes": 8e9,
        "cpu_percent": 90 + 5 * math.sin(step),
    }


def make_session(home: Home, name: str, points: int, *, every_metric: bool = True) -> str:
    """A stopped session of so many steps; returns its id. Long ones may have the loss alone."""
    engine = Engine(home)
    session_id = engine.create(load_config("tiny", [f"{PHASE}.steps={STEPS}"]), name)
    with closing(MetricsWriter(home.session(session_id).metrics)) as writer:
        for first in range(1, points + 1, _BATCH):
            records: list[Record] = []
            for step in range(first, min(first + _BATCH, points + 1)):
                logged = values(step)
                records.append((PHASE, step, logged if every_metric else {"loss": logged["loss"]}))
            writer.append(records)
        now = int(time.time())
        writer.append([("system", (now - ago) * 1000, system(ago)) for ago in range(300, 0, -1)])
        writer.heartbeat(beat(points))
    _enter(engine.registry, session_id, points)
    _bring_to(engine.registry, session_id, State.STOPPED)
    engine.shutdown()
    return session_id


def beat(step: int) -> Heartbeat:
    """The owner's progress."""
    return Heartbeat(
        at=time.time(),
        phase=PHASE,
        step=step,
        total_steps=STEPS,
        steps_per_second=STEPS_A_SECOND,
        tokens_per_second=STEPS_A_SECOND * 2048.0,
        eta_seconds=(STEPS - step) / STEPS_A_SECOND,
        status="",
        coalesced=0,
    )


def follow_forge(root: Path) -> None:
    """Run a session, as far as anyone who reads it can tell."""
    home = Home(root)
    session_id = make_session(home, "live", HISTORY)
    lease = Lease.acquire(home.session(session_id).lease, "live")
    with Registry.open(home) as registry, closing(MetricsWriter(home.session(session_id).metrics)) as writer:
        info = lease.info
        registry.write(lambda c: edits.take_lease(c, session_id, info.token, info.owner, time.time()))
        _bring_to(registry, session_id, State.RUNNING)

        def step(number: int) -> None:
            writer.append([(PHASE, number, values(number))])
            writer.heartbeat(beat(number))
            if number % STEPS_A_SECOND == 0:
                writer.append([("system", int(time.time() * 1000), system(number))])
            if number % (10 * STEPS_A_SECOND) == 0:
                registry.write(
                    lambda c: edits.add_event(
                        c,
                        session_id,
                        kind="checkpoint",
                        message=f"checkpoint step {number} (12.4 MB, 31 ms stall)",
                        now=time.time(),
                        phase=PHASE,
                        step=number,
                    )
                )

        _pace(step, "live")
        _bring_to(registry, session_id, State.STOPPED)
        registry.write(lambda c: edits.drop_lease(c, session_id, info.token))
    lease.release()


def follow_wandb(folder: Path) -> None:
    """The same steps in an offline run of wandb."""
    import wandb  # heavy, and only for its own viewer

    run: Any = wandb.init(project="benchmark", dir=str(folder), mode="offline")
    for number in range(1, HISTORY + 1):
        run.log(values(number))
    _pace(lambda number: run.log(values(number)), str(Path(run.dir).parent))
    run.finish()


def _pace(step: Callable[[int], object], ready: str) -> None:
    """Take steps at their time until stdin is closed."""
    print(json.dumps(ready), flush=True)
    number, due = HISTORY + 1, time.monotonic()
    while True:
        due += 1 / STEPS_A_SECOND
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            return
        step(number)
        number += 1


def _enter(registry: Registry, session_id: str, step: int) -> None:
    now = time.time()
    registry.write(lambda c: edits.set_session_state(c, session_id, State.RUNNING, now=now, phase=PHASE))
    registry.write(
        lambda c: edits.set_phase_state(
            c, session_id, PHASE, State.RUNNING, now=now, step=step, total_steps=STEPS
        )
    )


def _bring_to(registry: Registry, session_id: str, state: State) -> None:
    now = time.time()
    registry.write(lambda c: edits.set_phase_state(c, session_id, PHASE, state, now=now))
    registry.write(lambda c: edits.set_session_state(c, session_id, state, now=now))


if __name__ == "__main__":
    {"forge": follow_forge, "wandb": follow_wandb}[sys.argv[1]](Path(sys.argv[2]))
