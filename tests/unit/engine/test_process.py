"""A session in a process of its own: it holds the lease, outlives its starter, and its failure is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from forge.engine import ChildRun, Engine, HostedRun, child, process
from forge.engine.lease import Lease, read_info
from forge.errors import ForgeError, IllegalTransitionError, NotFoundError, SessionLeasedError
from forge.locks import is_held
from forge.registry import State, edits, queries
from tests.unit.engine.killing import ROOT, config, outcome, write_text
from tests.unit.engine.rig import Rig
from tests.unit.engine.test_kernel import Machine

PATIENCE = 120
ENDLESS = 1_000_000


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait, within bounds, for what another process brings about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return write_text(tmp_path / "texts")


@pytest.fixture
def endless(engine: Engine, corpus: str) -> Iterator[str]:
    """A session that goes on until somebody ends it, and does not outlive the test."""
    session = engine.create(config(corpus, ENDLESS), name="otter")
    yield session
    info = read_info(engine.home.session(session).lease)
    if info is not None and info.pid != os.getpid() and is_held(engine.home.session(session).lease):
        os.kill(info.pid, signal.SIGKILL)
        until(lambda: not is_held(engine.home.session(session).lease), "the end of the child")


@pytest.fixture
def apart_by_itself(endless: str, engine: Engine) -> str:
    """The same, whose configuration asks for a process."""
    path = engine.home.session(endless).config
    path.write_text(path.read_text().replace("host: thread", "host: process"))
    return endless


def let_run(engine: Engine, session: str) -> None:
    """What a child says itself once it has loaded the tensor library, for one that is killed before that."""
    engine.registry.write(lambda c: edits.set_session_state(c, session, State.RUNNING, now=1.0))


# --- where it runs --------------------------------------------------------------------------------------


def test_the_child_holds_the_lease_is_steered_and_gives_it_back(engine: Engine, endless: str) -> None:
    run = engine.spawn(endless)
    paths, row = engine.home.session(endless), engine.session(endless)
    info = read_info(paths.lease)
    assert info is not None
    assert info.pid == run.pid != os.getpid()
    assert row.owner == info.owner
    assert row.starting or row.state is State.RUNNING
    assert engine.hosted() is None, "it is in no thread of this program"
    born = psutil.Process(run.pid)
    assert os.getsid(run.pid) == run.pid != os.getsid(0), "a session of its own: no terminal can hang it up"
    assert born.terminal() is None
    sinks = [Path(f"/proc/{run.pid}/fd/{number}").resolve() for number in range(3)]
    assert sinks == [Path("/dev/null"), paths.log, paths.log]
    mine = {descriptor.resolve() for descriptor in Path("/proc/self/fd").iterdir()}
    assert paths.lease not in mine, "the starter holds nothing of it"

    # Asked for while it is still starting, a stop is obeyed all the same.
    command = engine.request(endless, "stop")
    assert run.wait(PATIENCE)
    answered = engine.registry.one(queries.command(command.id))
    assert answered is not None
    assert answered.state == "done"
    assert (run.exit_code, run.alive) == (0, False)
    assert engine.session(endless).state is State.STOPPED
    assert not is_held(paths.lease)
    assert not psutil.pid_exists(run.pid), "it was waited for"


def test_it_is_the_same_run(engine: Engine, corpus: str) -> None:
    """Begun in a process, killed there, and finished in a thread: as undisturbed, bit for bit."""
    wanted = config(corpus, 40)
    apart = wanted.model_copy(update={"runtime": wanted.runtime.model_copy(update={"host": "process"})})
    alone, killed = engine.create(wanted), engine.create(apart)
    here = engine.start(alone)
    assert isinstance(here, HostedRun)
    assert here.wait(PATIENCE)

    run = engine.start(killed)
    assert isinstance(run, ChildRun)
    until(lambda: len(engine.registry.fetch(queries.checkpoints(killed, "pretrain"))) > 1, "two checkpoints")
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait(PATIENCE)
    assert engine.reconcile() == [killed]
    again = engine.resume(killed, "thread")
    assert isinstance(again, HostedRun)
    assert again.wait(PATIENCE)
    assert outcome(engine, killed) == outcome(engine, alone)


@pytest.mark.parametrize(("number", "who"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C (SIGINT)")])
def test_a_signal_stops_it_with_a_checkpoint(engine: Engine, endless: str, number: int, who: str) -> None:
    run = engine.spawn(endless)
    until(lambda: bool(engine.registry.fetch(queries.checkpoints(endless, "pretrain"))), "a checkpoint")
    run.stop(number)
    assert run.wait(PATIENCE)
    assert run.exit_code == 0
    said = [event.message for event in engine.registry.fetch(queries.latest_events(endless, 9))]
    assert said[-1].startswith(f"stopped by {who}, with a checkpoint at step ")
    # To stop what has ended is no mistake.
    run.stop()


def test_a_second_run_of_a_program_gets_a_process(engine: Engine, endless: str, corpus: str) -> None:
    other = engine.create(config(corpus, ENDLESS))
    here = engine.start(other)
    beside = engine.start(endless)
    assert isinstance(here, HostedRun)
    assert isinstance(beside, ChildRun)
    assert engine.hosted() == other
    engine.shutdown()
    assert not here.alive
    assert beside.alive, "closing the program stops only what runs in it"


def test_a_starter_that_is_killed_takes_nothing_with_it(engine: Engine, endless: str) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from forge.engine import Engine
        from forge.home import Home
        run = Engine(Home(Path(sys.argv[1]))).spawn(sys.argv[2])
        print(run.pid, flush=True)
        sys.stdin.read()
    """
    starter = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(engine.home.root), endless],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.communicate()
    let_run(engine, endless)
    assert engine.reconcile() == []
    os.kill(pid, signal.SIGKILL)
    until(lambda: engine.reconcile() == [endless], "its death to be seen")
    assert engine.session(endless).state is State.INTERRUPTED


def test_nobody_calls_it_interrupted_before_it_has_the_lease(
    engine: Engine, endless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[tuple[list[str], State]] = []
    real = process._listen

    def listen(reader: int, seconds: float) -> dict[str, object]:
        looks.append((engine.reconcile(), engine.session(endless).state))
        said = real(reader, seconds)
        looks.append((engine.reconcile(), engine.session(endless).state))
        return said

    monkeypatch.setattr(process, "_listen", listen)
    engine.registry.write(
        lambda c: [edits.set_session_state(c, endless, s, now=1.0) for s in (State.RUNNING, State.STOPPED)]
    )
    engine.spawn(endless)
    assert [dead for dead, _ in looks] == [[], []]
    assert looks[0][1] is State.STOPPED
    assert engine.session(endless).state in (State.STOPPED, State.RUNNING)


# --- how it ends ----------------------------------------------------------------------------------------


def test_a_killed_child_is_named_by_its_parent(engine: Engine, apart_by_itself: str, tmp_path: Path) -> None:
    endless = apart_by_itself
    machine = Machine(tmp_path / "machine")
    engine._kernel = machine.kernel
    for kills, said in ((0, "was ended by SIGKILL"), (1, "was ended by the kernel's out-of-memory killer")):
        run = engine.resume(endless)
        run = run if isinstance(run, ChildRun) else pytest.fail("it was hosted here")
        let_run(engine, endless)
        _rewrite(engine, endless, machine)
        machine.kills(1 + kills)
        os.kill(run.pid, signal.SIGKILL)
        until(lambda: not is_held(engine.home.session(endless).lease), "the death")
        assert engine.reconcile() == [endless]
        last = engine.registry.fetch(queries.latest_events(endless, 1))[0]
        assert (last.kind, said in last.message) == ("interrupted", True), last.message
        machine.kills(1)


def _rewrite(engine: Engine, session: str, machine: Machine) -> None:
    """What the child had written, had it run on the other machine."""
    path = engine.home.session(session).lease
    lease = json.loads(path.read_text())
    path.write_text(
        json.dumps({**lease, "boot_id": machine.kernel.boot_id(), "oom_kills": machine.kernel.oom_kills()})
    )


# --- what can be in the way -----------------------------------------------------------------------------


def test_why_it_could_not_take_the_lease_is_told(engine: Engine, endless: str) -> None:
    lease = Lease.acquire(engine.home.session(endless).lease, "otter")
    with pytest.raises(SessionLeasedError, match=rf"otter is running in pid {os.getpid()} on .*forge stop"):
        engine.spawn(endless)
    lease.release()
    engine.registry.write(
        lambda c: [edits.set_session_state(c, endless, s, now=1.0) for s in (State.RUNNING, State.COMPLETED)]
    )
    with pytest.raises(IllegalTransitionError, match="otter is completed; there is nothing left to run"):
        engine.spawn(endless)
    shutil.rmtree(engine.home.session(endless).root)
    with pytest.raises(ForgeError, match=r"no process could be started for otter: No such file"):
        engine.spawn(endless)
    with pytest.raises(NotFoundError, match="no session with id"):
        engine.spawn("01NONE")


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize(
    ("does", "how"),
    [
        (
            "echo 'no module named forge' >&2; exit 3",
            "ended with exit code 3 .*Its last words: no module named",
        ),
        ("kill -9 $$", "was ended by signal 9 before it held the lease"),
    ],
)
def test_a_process_that_dies_before_its_first_word(
    engine: Engine, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, how: str
) -> None:
    rig.paths.log.write_text('{"message": "an event"}\n')
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", does))
    with pytest.raises(ForgeError, match=f"the process for otter {how}"):
        engine.spawn(rig.session_id)
    assert rig.session.state is State.CREATED


def test_a_process_that_never_says_a_word_is_ended(
    engine: Engine, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "pid"
    does = f"echo $$ > {mark}; exec sleep 600"
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", does))
    with pytest.raises(ForgeError, match="its process did not get to the lease in 0 seconds and was ended"):
        process.spawn(engine.home, rig.session, seconds=0.4)
    assert not mark.exists() or not psutil.pid_exists(int(mark.read_text()))


def test_what_lies_in_the_folder_one_stands_in_is_not_imported(
    engine: Engine, endless: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from where the person stands')")
    monkeypatch.chdir(tmp_path)
    run = engine.spawn(endless)
    assert run.alive
    assert Path(f"/proc/{run.pid}/cwd").resolve() == tmp_path, "a corpus may be named from here"


def test_a_starter_that_has_gone_is_no_reason_to_end() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child._say(writer, {"held": True})
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)


# --- another pid namespace ------------------------------------------------------------------------------

LOOK = """
import os, sys
from pathlib import Path
from forge.engine import Engine
from forge.errors import SessionLeasedError
from forge.home import Home
engine = Engine(Home(Path(sys.argv[1])))
print(os.getpid(), engine.reconcile(), engine.session(sys.argv[2]).state)
try:
    engine.host(sys.argv[2])
except SessionLeasedError as error:
    print(error)
"""
OWN = """
import os, sys
from pathlib import Path
from forge.engine.lease import Lease
lease = Lease.acquire(Path(sys.argv[1]), "otter")
print(os.getpid(), lease.info.token, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def apart() -> list[str]:
    """A command that runs another in a pid namespace of its own."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        command = [*command[:1], "--user", "--map-root-user", *command[1:]]
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no pid namespace can be made here: {tried.stderr.strip()}")
    return command


def run_live(rig: Rig, token: str) -> None:
    def live(c: object) -> None:
        edits.take_lease(c, rig.session_id, token, "pid 1 on there", 1.0)  # type: ignore[arg-type]
        edits.set_session_state(c, rig.session_id, State.RUNNING, now=1.0)  # type: ignore[arg-type]

    rig.registry.write(live)


def test_who_looks_from_another_pid_namespace_takes_nobody_for_dead(rig: Rig, apart: list[str]) -> None:
    lease = Lease.acquire(rig.paths.lease, "otter")
    run_live(rig, lease.info.token)
    looked = subprocess.run(
        [*apart, sys.executable, "-c", LOOK, str(rig.engine.home.root), rig.session_id],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    first, second = looked.stdout.splitlines()
    assert first == "1 [] running", "there our pid does not exist"
    assert second.startswith(f"otter is running in pid {os.getpid()} on ")
    lease.release()


def test_an_owner_in_another_pid_namespace_is_alive_until_it_is_dead(rig: Rig, apart: list[str]) -> None:
    owner = subprocess.Popen(
        [*apart, sys.executable, "-c", OWN, str(rig.paths.lease)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert owner.stdout is not None
    pid, token = owner.stdout.readline().split()
    assert pid == "1", "a pid that is always somebody's, and here somebody else's"
    run_live(rig, token)
    assert rig.engine.reconcile() == []
    owner.kill()
    owner.communicate()
    until(lambda: rig.engine.reconcile() == [rig.session_id], "its death to be seen")
