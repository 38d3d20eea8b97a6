"""The command line in this process or in one of its own, over homes that are seeded or really trained.

The trained home is made once and only read; a test that changes something has a home of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from ulid import ULID

from forge.cli.app import app
from forge.home import Home, prepare_home
from forge.registry import LIVE, Connection, Heartbeat, MetricsWriter, Registry, State, edits

COMMAND = [sys.executable, "-c", "from forge.cli import main; main()"]
"""`forge` as a process of its own."""

TINY = """
name: smallest
model: {vocab_size: 300, d_model: 16, n_layers: 1, n_heads: 2, d_ff: 16, max_seq_len: 16}
data: {corpus: "text:%s/*.txt", seq_len: 16, dev_fraction: 0.2, test_fraction: 0.2}
pretrain: {steps: 4, batch_size: 2, micro_batch: 2, warmup_steps: 1, eval_every: 4, eval_tokens: 128,
  report_tokens: 128}
forging: {steps: 4, batch_size: 2, micro_batch: 2, warmup_steps: 1, eval_every: 4, eval_tokens: 128,
  report_tokens: 128, lambda_ramp_steps: 2}
runtime: {device: cpu, threads: 1, checkpoint_every: 2}
"""
ENDLESS = ["--set", "pretrain.steps=1000000", "--set", "runtime.checkpoint_every=1000000"]


class Result:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """Standard output as the JSON document that it must be."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


Forge = Callable[..., Result]


def invoke(home: Home, *arguments: str, stdin: str | None = None) -> Result:
    """Run one command in this process; an unexpected exception fails the test with its traceback."""
    result = CliRunner().invoke(
        app,
        list(arguments),
        prog_name="forge",
        input=stdin,
        env={"FORGE_HOME": str(home.root)},
        catch_exceptions=False,
    )
    return Result(result.exit_code, result.stdout, result.stderr)


def write_config(folder: Path) -> Path:
    """The smallest configuration that goes through both phases, and a corpus for it."""
    texts = folder / "texts"
    texts.mkdir()
    for number in range(12):
        words = " ".join(f"word{number}_{i} = {i * number}" for i in range(60))
        (texts / f"{number}.txt").write_text(f"def f{number}():\n    {words}\n", "utf-8")
    config = folder / "smallest.yaml"
    config.write_text(TINY % texts, "utf-8")
    return config


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return prepare_home(Home(tmp_path / "home"))


@pytest.fixture
def forge(home: Home) -> Forge:
    """`forge("sessions", "--json")` on the test's own home."""
    return lambda *arguments, stdin=None: invoke(home, *arguments, stdin=stdin)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration file of a session that takes a second."""
    return write_config(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Result]:
    """A home with one finished session, `first`, and what `forge run --json` printed when it was made."""
    folder = tmp_path_factory.mktemp("trained")
    home = prepare_home(Home(folder / "home"))
    result = invoke(home, "run", str(write_config(folder)), "--name", "first", "--json")
    assert result.code == 0, result.err
    return home, result


def add(home: Home, name: str, state: State = State.CREATED, *, note: str = "", loss: float = 3.25) -> str:
    """A session in the registry; a live one is at step 310 of 500, with a metrics file. Returns its id."""
    session_id, now = str(ULID()), time.time()

    def rows(c: Connection) -> None:
        phases = [("pretrain", 500), ("forging", 200)]
        edits.create_session(c, id=session_id, name=name, preset="tiny", phases=phases, now=now)
        edits.set_note(c, session_id, note, now)
        if state is not State.CREATED:
            edits.take_lease(c, session_id, f"lease of {name}", "pid 4121 on gpu-box", now)
            for step in dict.fromkeys((State.RUNNING, state)):
                edits.set_session_state(c, session_id, step, now=now, phase="pretrain")
                edits.set_phase_state(c, session_id, "pretrain", step, now=now, step=300)
        if state not in LIVE:
            edits.drop_lease(c, session_id, f"lease of {name}", now)
        edits.add_event(c, session_id, kind="note", message="an event\x1b[2J", now=now)

    paths = home.session(session_id)
    paths.root.mkdir(parents=True)
    with Registry.open(home) as registry:
        registry.write(rows)
    if state in LIVE:
        writer = MetricsWriter(paths.metrics)
        writer.append([("pretrain", 310, {"loss": loss, "lr": 1e-3})])
        writer.heartbeat(
            Heartbeat(at=now, phase="pretrain", step=310, total_steps=500, steps_per_second=4.0,
                      tokens_per_second=8412.0, eta_seconds=47.5, status="", coalesced=0)
        )  # fmt: skip
        writer.close()
        # What a dead owner leaves; without the file nobody knows at once.
        paths.lease.touch()
    return session_id


@contextmanager
def held(home: Home, session_id: str) -> Iterator[None]:
    """Somebody holds the lease of a session while this lasts."""
    path = home.session(session_id).lease
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for another process; fails when it takes impossibly long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds:.0f} seconds"
        # Looking costs time that the other process, on the same core, needs.
        time.sleep(0.2)
