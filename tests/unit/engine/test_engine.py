"""What screens and the command line ask of the engine: create, host, request, resume, find, reconcile."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from forge import durable, retention
from forge.config import SessionCleanupPolicy, read_frozen
from forge.engine import Engine, HostedRun
from forge.engine.engine import LIFE_SECONDS
from forge.engine.lease import Lease
from forge.errors import (
    ForgeError,
    HomeError,
    IllegalTransitionError,
    NotFoundError,
    RegistryError,
    SessionLeasedError,
)
from forge.home import Home
from forge.locks import is_held
from forge.registry import Heartbeat, MetricsWriter, Registry, State, edits, queries
from tests.unit.engine.rig import Rig, counting_config

PATIENCE = 60


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hosted runs do nothing but wait until this is set; they end as completed."""
    go = threading.Event()

    def stand(run: HostedRun, helpers: Any) -> State:
        run._registry.write(
            lambda c: edits.set_session_state(c, run.session.id, State.RUNNING, now=1.0).state
        )
        assert go.wait(PATIENCE)
        return State.COMPLETED

    monkeypatch.setattr(HostedRun, "_train", stand)
    return go


def live(rig: Rig, lease: str | None) -> None:
    """Make the session running under a lease, as a crash leaves it."""

    def change(c: Any) -> None:
        if lease is not None:
            edits.take_lease(c, rig.session_id, lease, "pid 4121 on gpu-box", 1.0)
        edits.set_session_state(c, rig.session_id, State.RUNNING, now=1.0)
        edits.set_phase_state(c, rig.session_id, "pretrain", State.RUNNING, now=1.0, step=5)

    rig.registry.write(change)


# --- create ---------------------------------------------------------------------------------------------


def test_a_session_is_a_folder_and_rows(engine: Engine, home: Home) -> None:
    config = counting_config()
    session = engine.session(engine.create(config, name="otter"))
    assert (session.name, session.state, session.preset) == ("otter", State.CREATED, "counting")
    paths = home.session(session.id)
    assert read_frozen(paths.config) == config
    assert paths.root.stat().st_mode & 0o777 == 0o700
    assert paths.config.stat().st_mode & 0o777 == 0o600
    runs = engine.registry.fetch(queries.phase_runs(session.id))
    assert [(run.phase, run.total_steps) for run in runs] == [("pretrain", 12), ("forging", 12)]


def test_names_are_made_up_and_a_taken_one_gets_a_number(engine: Engine) -> None:
    made_up = engine.session(engine.create(counting_config())).name
    assert len(made_up.split("-")) == 3
    names = [engine.session(engine.create(counting_config(), "otter")).name for _ in range(3)]
    assert names == ["otter", "otter-2", "otter-3"]


def test_what_fails_half_way_leaves_no_folder(engine: Engine, home: Home) -> None:
    with pytest.raises(RegistryError, match="needs a name"):
        engine.create(counting_config(), name="  ")
    assert list(home.sessions.iterdir()) == []


def test_no_cleanup_comes_between_making_a_session_and_running_it(
    engine: Engine, home: Home, train: threading.Event
) -> None:
    nothing = SessionCleanupPolicy(max_sessions_retained=0)
    session_id, now = engine.create(counting_config()), time.time()
    plan = retention.plan(home, engine.registry, nothing, now)
    assert retention.execute(home, engine.registry, plan, actor="me", now=now).trashed == ()
    run = engine.host(session_id)
    train.set()
    run.wait()
    assert run.outcome is State.COMPLETED


def test_a_full_disk_is_told_in_a_sentence(
    engine: Engine, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, mode: int = 0o600) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(durable, "write_file", full)
    with pytest.raises(HomeError, match=r"no session can be made in .*sessions: No space left.*FORGE_HOME"):
        engine.create(counting_config())
    assert list(home.sessions.iterdir()) == []


def test_a_read_only_registry_makes_none(engine: Engine, home: Home) -> None:
    engine.registry.read_only, engine.registry.notice = True, "written by a newer Forge"
    with pytest.raises(RegistryError, match="written by a newer Forge"):
        engine.create(counting_config())
    assert engine.reconcile() == []
    assert list(home.sessions.iterdir()) == []


# --- host -----------------------------------------------------------------------------------------------


def test_one_process_hosts_one_session(engine: Engine, session: str, train: threading.Event) -> None:
    other = engine.create(counting_config(), "heron")
    run = engine.host(session)
    assert (engine.hosted(), engine.run) == (session, run)
    with pytest.raises(SessionLeasedError, match="this process already runs otter"):
        engine.host(other)
    assert not is_held(engine.home.session(other).lease)
    train.set()
    assert run.wait(PATIENCE)
    assert engine.hosted() is None
    assert engine.host(other).wait(PATIENCE)


def test_of_two_threads_that_host_at_once_one_wins(
    engine: Engine, session: str, train: threading.Event
) -> None:
    other = engine.create(counting_config(), "heron")
    gate = threading.Barrier(2)

    def host(session_id: str) -> str:
        gate.wait(PATIENCE)
        try:
            engine.host(session_id)
        except SessionLeasedError as error:
            return str(error)
        return "hosted"

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(host, [session, other]))
    train.set()
    assert results[0] == "hosted"
    assert results[1].startswith("this process already runs")


def test_a_completed_session_has_nothing_left_to_run(
    engine: Engine, session: str, train: threading.Event
) -> None:
    train.set()
    assert engine.host(session).wait(PATIENCE)
    with pytest.raises(IllegalTransitionError, match="otter is completed; there is nothing left to run"):
        engine.host(session)
    assert not is_held(engine.home.session(session).lease)


def test_a_session_that_is_not_there(engine: Engine) -> None:
    for call in (engine.host, engine.resume, engine.session):
        with pytest.raises(NotFoundError, match='no session with id 01NONE; "forge sessions" lists them'):
            call("01NONE")


def test_a_session_whose_folder_vanished_is_said_so(engine: Engine, session: str) -> None:
    durable.remove_tree(engine.home.session(session).root)
    with pytest.raises(ForgeError, match="lease of otter cannot be taken"):
        engine.host(session)


def test_a_start_that_fails_gives_the_lease_back(
    engine: Engine, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_threads(thread: threading.Thread) -> None:
        if thread.name == "forge-train":
            raise RuntimeError("can't start new thread")
        real(thread)

    real = threading.Thread.start
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_threads)
        with pytest.raises(RuntimeError, match="can't start"):
            engine.host(session)
    assert engine.hosted() is None
    assert engine.session(session).lease is None
    assert not is_held(engine.home.session(session).lease)


def test_the_lease_of_a_dead_owner_is_taken_over(engine: Engine, rig: Rig, train: threading.Event) -> None:
    live(rig, "OLD")
    run = engine.host(rig.session_id)
    assert rig.events("interrupted") == ["its owner (pid 4121 on gpu-box) ended without saying so"]
    train.set()
    assert run.wait(PATIENCE)
    assert rig.session.state is State.COMPLETED


STARTING = """
import sys
from pathlib import Path
from forge.engine import Engine
from forge.engine.host import HostedRun
from forge.errors import SessionLeasedError
from forge.home import Home
from forge.registry import State

def stand(run, helpers):
    print("won", flush=True)
    sys.stdin.readline()
    return State.STOPPED

HostedRun._train = stand
engine = Engine(Home(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
try:
    run = engine.host(sys.argv[2])
    run.wait()
except SessionLeasedError as error:
    print(f"lost: {error}", flush=True)
    sys.stdin.readline()
engine.shutdown()
"""


def test_of_two_processes_that_start_a_session_one_wins_and_the_other_is_told_who(
    engine: Engine, session: str
) -> None:
    command = [sys.executable, "-c", STARTING, str(engine.home.root), session]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]

    def line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def enter(process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    assert [line(process) for process in processes] == ["ready", "ready"]
    for process in processes:
        enter(process)
    answers = {process.pid: line(process) for process in processes}
    assert sorted(answer.split(":")[0] for answer in answers.values()) == ["lost", "won"]
    winner = next(pid for pid, answer in answers.items() if answer == "won")
    (lost,) = (answer for answer in answers.values() if answer != "won")
    assert f"otter is running in pid {winner} on " in lost
    with pytest.raises(SessionLeasedError, match=f"pid {winner}"):
        engine.host(session)
    for process in processes:
        enter(process)
        process.communicate(timeout=PATIENCE)


# --- reconcile ------------------------------------------------------------------------------------------


def test_a_dead_owner_leaves_an_interrupted_session_once(engine: Engine, rig: Rig) -> None:
    live(rig, "OLD")
    command = rig.registry.write(
        lambda c: edits.request_command(c, rig.session_id, "stop", args={}, requested_by="anna", now=1.0)
    )
    assert engine.reconcile() == [rig.session_id]
    assert (rig.session.state, rig.session.lease, rig.session.owner) == (State.INTERRUPTED, None, None)
    assert (rig.phase().state, rig.phase().step) == (State.INTERRUPTED, 5)
    assert rig.answer(command)[0] == "void"
    assert engine.reconcile() == []
    assert len(rig.events("interrupted")) == 1


def test_a_live_owner_is_left_alone(engine: Engine, rig: Rig) -> None:
    live(rig, "MINE")
    lease = Lease.acquire(rig.paths.lease, "otter")
    assert engine.reconcile() == []
    assert rig.session.state == "running"
    lease.release()
    assert engine.reconcile() == [rig.session_id]


@pytest.mark.parametrize("years", [-30, 30])
def test_a_live_owner_is_not_taken_over_when_its_clock_jumps(
    engine: Engine, rig: Rig, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    live(rig, "MINE")
    lease = Lease.acquire(rig.paths.lease, "otter")
    writer = MetricsWriter(rig.paths.metrics)
    writer.heartbeat(
        Heartbeat(at=1.0, phase="pretrain", step=5, total_steps=12, steps_per_second=5.0,
                  tokens_per_second=0.0, eta_seconds=None, status="", coalesced=0)
    )  # fmt: skip
    writer.close()
    there = time.time() + years * 365 * 86_400
    monkeypatch.setattr(time, "time", lambda: there)
    # What the file says of pid, boot and start is for display.
    stale = {**asdict(lease.info), "pid": 2**22 + 1, "boot_id": "another", "since": there + 1e9}
    rig.paths.lease.write_text(json.dumps(stale))
    assert engine.reconcile() == []
    with pytest.raises(SessionLeasedError, match="otter is running in pid"):
        engine.host(rig.session_id)
    assert rig.session.state is State.RUNNING
    lease.release()


def test_an_owner_that_died_before_it_began_leaves_nothing_behind(engine: Engine, rig: Rig) -> None:
    rig.registry.write(lambda c: edits.take_lease(c, rig.session_id, "OLD", "pid 4121 on gpu-box", 1.0))
    assert engine.reconcile() == []
    assert (rig.session.state, rig.session.lease) == (State.CREATED, None)


@pytest.mark.parametrize("after", ["resumed by another", "ended by itself"])
def test_what_changed_since_the_look_is_not_undone(
    engine: Engine, rig: Rig, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    live(rig, "OLD")
    real = Registry.write

    def write(registry: Registry, change: Callable[..., Any]) -> Any:
        def first(c: Any) -> None:
            if after == "resumed by another":
                edits.take_lease(c, rig.session_id, "NEW", "pid 2 on here", 2.0)
            else:
                edits.set_phase_state(c, rig.session_id, "pretrain", State.STOPPED, now=2.0)
                edits.set_session_state(c, rig.session_id, State.STOPPED, now=2.0)
                edits.drop_lease(c, rig.session_id, "OLD")

        with monkeypatch.context() as patch:
            patch.setattr(Registry, "write", real)
            registry.write(first)
            return registry.write(change)

    monkeypatch.setattr(Registry, "write", write)
    assert engine.reconcile() == []
    expected = "running" if after == "resumed by another" else "stopped"
    assert rig.session.state == expected
    assert rig.events("interrupted") == []


def test_a_session_without_its_folder_is_interrupted_too(engine: Engine, rig: Rig) -> None:
    live(rig, "OLD")
    durable.remove_tree(rig.paths.root)
    assert engine.reconcile() == [rig.session_id]


# --- request and resume ---------------------------------------------------------------------------------


def test_a_request_to_nobody_is_refused_with_what_to_do(engine: Engine, rig: Rig) -> None:
    with pytest.raises(IllegalTransitionError, match=r'nobody runs it.*"forge resume otter"'):
        engine.request(rig.session_id, "pause")
    live(rig, "OLD")
    with pytest.raises(IllegalTransitionError, match="otter is interrupted"):
        engine.request(rig.session_id, "pause")


def test_a_request_names_who_asked(engine: Engine, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    live(rig, "MINE")
    lease = Lease.acquire(rig.paths.lease, "otter")
    command = engine.request(rig.session_id, "checkpoint", reason="lunch")
    assert (command.lease, command.kind, command.args) == ("MINE", "checkpoint", {"reason": "lunch"})
    assert command.requested_by == f"{getpass.getuser()} (pid {os.getpid()})"

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    command = engine.request(rig.session_id, "checkpoint")
    assert command.requested_by == f"user {os.getuid()} (pid {os.getpid()})"
    lease.release()


def test_resume_tells_a_live_one_and_hosts_a_dead_one(
    engine: Engine, rig: Rig, train: threading.Event
) -> None:
    live(rig, "OTHER")
    lease = Lease.acquire(rig.paths.lease, "otter")
    assert engine.resume(rig.session_id) is None
    (command,) = rig.registry.fetch(queries.commands(rig.session_id, 10))
    assert command.kind == "resume"
    lease.release()
    train.set()
    run = engine.resume(rig.session_id)
    assert run is not None
    assert run.wait(PATIENCE)


# --- find -----------------------------------------------------------------------------------------------


def test_find_by_name_id_and_beginning(engine: Engine) -> None:
    otter, heron = engine.create(counting_config(), "otter"), engine.create(counting_config(), "heron")
    assert engine.find("otter").id == otter
    assert engine.find(heron).name == "heron"
    assert engine.find(heron[:-1]).id in (otter, heron)
    with pytest.raises(NotFoundError, match='"01" fits 2 sessions: heron, otter'):
        engine.find(otter[:2])
    with pytest.raises(NotFoundError, match='no session "ott"; "forge sessions" lists them'):
        engine.find("ott")


def test_without_a_name_it_is_the_live_one_or_the_newest(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match='no session yet; start one with "forge run tiny"'):
        engine.find(None)
    otter, heron = engine.create(counting_config(), "otter"), engine.create(counting_config(), "heron")
    assert engine.find(None).id == heron
    leases = []
    for session in (otter, heron):
        live(Rig(engine, session), "MINE")
        leases.append(Lease.acquire(engine.home.session(session).lease, "x"))
        if session == otter:
            assert engine.find(None).id == otter
    with pytest.raises(NotFoundError, match=r"2 sessions run now: heron, otter\. Say which one"):
        engine.find(None)
    for lease in leases:
        lease.release()


# --- the end of a process -------------------------------------------------------------------------------


def test_shutdown_stops_the_run_and_closes(home: Home, train: threading.Event) -> None:
    engine = Engine(home)
    run = engine.host(engine.create(counting_config()))
    told: list[str] = []

    def stop(reason: str) -> None:
        told.append(reason)
        train.set()

    run.stop = stop  # type: ignore[method-assign]
    engine.shutdown()
    assert told == ["the program that hosted it was closed"]
    assert not run.alive
    engine.shutdown()
    with pytest.raises(RuntimeError, match="closed"):
        engine.registry.fetch(queries.sessions(limit=1))


def test_keep_training_leaves_everything_open_until_the_run_has_ended(
    home: Home, train: threading.Event
) -> None:
    engine = Engine(home)
    session = engine.create(counting_config())
    run = engine.host(session)
    engine.shutdown(keep_training=True)
    assert run.alive
    assert engine.session(session).lease is not None
    train.set()
    assert run.wait(PATIENCE)
    assert engine.session(session).state is State.COMPLETED
    engine.shutdown(keep_training=True)
    with pytest.raises(RuntimeError, match="closed"):
        engine.session(session)


def test_a_killed_process_is_seen_as_dead_at_once(engine: Engine, session: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING, str(engine.home.root), session],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "won\n"
    engine.registry.write(lambda c: edits.set_session_state(c, session, State.RUNNING, now=1.0).state)
    assert engine.reconcile() == []
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert engine.reconcile() == [session]


def test_the_engine_is_there_without_torch() -> None:
    script = "import sys, forge.engine; print('torch' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False False"


def test_a_session_in_the_trash_is_not_run(engine: Engine, rig: Rig) -> None:
    rig.registry.write(lambda c: edits.set_session_state(c, rig.session_id, State.TRASHED, now=1.0))
    with pytest.raises(IllegalTransitionError, match='in the trash; "forge trash undo otter" brings it back'):
        engine.host(rig.session_id)


def test_a_lease_that_cannot_be_looked_at_is_nobody_s_death(engine: Engine, rig: Rig, tmp_path: Path) -> None:
    live(rig, "lease-1")
    rig.paths.lease.unlink(missing_ok=True)
    rig.paths.lease.symlink_to(tmp_path / "elsewhere")
    assert engine.reconcile() == []
    assert engine.session(rig.session_id).state is State.RUNNING


@pytest.mark.parametrize(("age", "known"), [(LIFE_SECONDS - 5, False), (LIFE_SECONDS + 5, True), (-60, True)])
def test_without_its_lease_file_a_session_is_not_dead_at_once(
    engine: Engine, rig: Rig, train: threading.Event, age: float, known: bool
) -> None:
    live(rig, "MINE")
    rig.paths.lease.unlink(missing_ok=True)
    writer = MetricsWriter(rig.paths.metrics)
    writer.heartbeat(
        Heartbeat(at=time.time() - age, phase="pretrain", step=5, total_steps=12, steps_per_second=5.0,
                  tokens_per_second=0.0, eta_seconds=None, status="", coalesced=0)
    )  # fmt: skip
    writer.close()
    if not known:
        with pytest.raises(SessionLeasedError, match=r"lease file of otter is gone, but it was alive"):
            engine.host(rig.session_id)
        assert not rig.paths.lease.exists()
        assert rig.session.state is State.RUNNING
    assert engine.reconcile() == ([rig.session_id] if known else [])
