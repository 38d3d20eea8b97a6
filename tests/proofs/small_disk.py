"""Runs sessions on a file system of a few megabytes, which it fills; run by `test_full_disk.py`.

    unshare -Urm python small_disk.py FOLDER CORPUS

Mounts a tmpfs on the folder, where only this process sees it, and prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from forge.engine import Engine, context
from forge.home import Home
from forge.optim.trainer import Trainer
from forge.registry import cleanup, queries
from forge.retention import Plan, SessionCleanupPolicy, execute, plan
from tests.unit.engine.killing import config, outcome

PATIENCE = 60
LEAVE = {"nothing": 0, "a little": 160_000}
"""Bytes that are left free: of two checkpoints that need more, none or one would fit."""


def fill(ballast: Path, leave: int) -> None:
    """Take all that is free but so much."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while shutil.disk_usage(ballast.parent).free > leave:
                file.write(b"x" * min(65_536, max(4096, shutil.disk_usage(ballast.parent).free - leave)))
        except OSError:
            return  # full to the last block


def before_step(number: int, act: Callable[[], None]) -> None:
    """Do something once, inside a step of the next run."""
    real, seen = Trainer.train_step, 0

    def train_step(trainer: Trainer, *arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == number:
            Trainer.train_step = real  # type: ignore[method-assign]
            act()
        return real(trainer, *arguments)

    Trainer.train_step = train_step  # type: ignore[assignment,method-assign]


def drive(engine: Engine, corpus: str, act: Callable[[], None], free: Callable[[], None]) -> dict[str, Any]:
    """Run a session whose disk is filled by `act` in its third step, and freed once the run stands still."""
    session, status = engine.create(config(corpus, 6)), ""
    before_step(3, act)
    run = engine.host(session)
    deadline = time.monotonic() + PATIENCE
    while run.alive and not (status := STATUS[-1]) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    state = engine.session(session).state
    free()
    assert run.wait(PATIENCE), status
    run.settle()
    rows = engine.registry.fetch(queries.latest_events(session, 1000))
    told = [row for row in rows if row.kind in ("disk", "continue", "cleanup")]
    return {
        "state": state,
        "status": status,
        "outcome": run.outcome,
        "events": [f"{row.kind}: {row.message}" for row in told],
        "same": outcome(engine, session) == outcome(engine, engine.find("reference").id),
    }


STATUS = [""]
"""Why the run stands still, from the run itself: a full disk may take no record of it."""


def watch_standing_still() -> None:
    """Keep `STATUS` up to date."""
    real = context.EngineContext._beat

    def beat(self: context.EngineContext) -> None:
        real(self)
        STATUS[-1] = self._held or ""

    context.EngineContext._beat = beat  # type: ignore[method-assign]


def trash(engine: Engine, session: str, days: float) -> None:
    """Move one session into the trash, as it would have been so many days ago."""
    now = time.time()
    every = SessionCleanupPolicy(max_sessions_retained=None, max_age_days=1e-9, max_failed_age_days=None)
    decisions = plan(engine.home, engine.registry, every, now + 1).decisions
    only = Plan(every, now, tuple(d for d in decisions if d.session.id == session))
    done = execute(engine.home, engine.registry, only, actor="proof", now=now - days * 86_400)
    assert len(done.trashed) == 1


def main(folder: str, corpus: str) -> None:
    """Two kinds of a full disk, and one that the cleanup frees."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "forge", folder], check=True)
    context.RETRY_SECONDS = 0.5
    watch_standing_still()
    ballast, found = Path(folder) / "ballast", {}
    engine = Engine(Home(Path(folder) / "home"))
    assert engine.host(engine.create(config(corpus, 6), "reference")).wait(PATIENCE)
    for name, leave in LEAVE.items():
        found[name] = drive(engine, corpus, partial(fill, ballast, leave), ballast.unlink)
    old = engine.create(config(corpus, 6), "old")
    (engine.home.session(old).root / "weights").write_bytes(os.urandom(1_000_000))

    def act() -> None:
        # Only now: what was long in the trash is deleted when a run begins, too.
        trash(engine, old, days=8)
        fill(ballast, LEAVE["a little"])

    found["expired trash"] = drive(engine, corpus, act, lambda: None)
    assert engine.registry.fetch(cleanup.trash()) == []
    engine.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:  # noqa: BLE001 - a run that stands still for ever must not keep the proof waiting
        traceback.print_exc()
        os._exit(1)
