"""Why an owner died is said as far as it is known, and no further; once with a real out-of-memory kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from forge.engine import Engine, autopsy
from forge.engine.kernel import Kernel
from forge.engine.lease import LeaseInfo
from forge.registry import Connection, State, edits
from tests.unit.engine.rig import Rig
from tests.unit.engine.test_kernel import Machine

OWNER = "pid 4121 on gpu-box"
KILL = -signal.SIGKILL
VICTIM = """
import sys
from pathlib import Path
from forge.engine.lease import Lease
sys.stdin.readline()
lease = Lease.acquire(Path(sys.argv[1]), "otter")
print(lease.info.token, flush=True)
sys.stdin.readline()
hoard = [bytearray(b"x") * (1 << 24) for _ in range(64)]
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def info(machine: Machine) -> LeaseInfo:
    """What an owner on this machine wrote down."""
    return replace(LeaseInfo.of_this_process(machine.kernel), pid=4121, uptime=90.0)


def cause(machine: Machine, info: LeaseInfo | None, code: int | None = None) -> str:
    return autopsy.cause(OWNER, info, code, machine.kernel)


def test_what_nobody_knows_is_not_guessed(machine: Machine, info: LeaseInfo) -> None:
    silent = f"its owner ({OWNER}) ended without saying so"
    assert cause(machine, info) == silent
    assert cause(machine, None) == silent
    assert cause(machine, info, 0) == silent
    assert cause(machine, info, KILL) == f"its owner ({OWNER}) was ended by SIGKILL"


@pytest.mark.parametrize(
    ("code", "how"),
    [(-11, "was ended by SIGSEGV"), (-99, "was ended by signal 99"), (143, "ended with exit code 143")],
)
def test_what_its_starter_saw(machine: Machine, info: LeaseInfo, code: int, how: str) -> None:
    machine.kills(2)  # somebody else's
    assert cause(machine, info, code) == f"its owner ({OWNER}) {how} and could not say so"


def test_a_kill_in_its_cgroup_and_a_sigkill_are_proof(machine: Machine, info: LeaseInfo) -> None:
    machine.kills(2)
    said = cause(machine, info, KILL)
    assert said.startswith(f"its owner ({OWNER}) was ended by the kernel's out-of-memory killer. Main memory")
    assert "smaller micro_batch" in said


def test_the_kernel_s_log_names_it(machine: Machine, info: LeaseInfo) -> None:
    machine.says("6,812,95000000,-;Out of memory: Killed process 4121 (python3)")
    assert "was ended by the kernel's out-of-memory killer" in cause(machine, info)
    # In another container the number means another process.
    assert "memory" not in cause(machine, replace(info, host="another"))


def test_a_kill_that_nobody_saw_is_most_likely_it(machine: Machine, info: LeaseInfo) -> None:
    machine.kills(2)
    assert "most likely by the kernel's out-of-memory killer" in cause(machine, info)


def test_a_kill_anywhere_on_the_machine_says_little(machine: Machine, info: LeaseInfo) -> None:
    machine.write(machine.proc / "vmstat", "oom_kill 6\n")
    assert "memory" not in cause(machine, info, KILL), "its own cgroup knows of none"
    machine.own.unlink()
    assert "most likely" in cause(machine, info, KILL)
    assert "has ended a process here about then" in cause(machine, info)


def test_another_boot(machine: Machine, info: LeaseInfo) -> None:
    machine.kills(9)
    machine.write(machine.proc / "sys/kernel/random/boot_id", "next-boot\n")
    assert cause(machine, info).endswith("ended without saying so: the machine was started anew since")
    elsewhere = replace(info, host="another")
    assert cause(machine, elsewhere) == f"its owner ({OWNER}) ended without saying so"


def test_the_lease_of_somebody_else_tells_nothing(engine: Engine, rig: Rig, machine: Machine) -> None:
    """The file names whoever took the lease last; the session's row, whose death is told."""
    engine._kernel = machine.kernel
    for token, told in (("another", False), (None, True)):
        info = LeaseInfo.of_this_process(machine.kernel)
        rig.paths.lease.write_text(json.dumps(asdict(info)))
        machine.kills(machine.kernel.oom_kills()[str(machine.own)] + 1)

        def live(c: Connection, token: str = token or info.token) -> None:
            edits.take_lease(c, rig.session_id, token, OWNER, 1.0)
            edits.set_session_state(c, rig.session_id, State.RUNNING, now=1.0)

        rig.registry.write(live)
        assert engine.reconcile() == [rig.session_id]
        assert ("out-of-memory" in rig.events("interrupted")[-1]) is told


# --- the real one -----------------------------------------------------------------------------------------


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """The `cgroup.procs` of a cgroup in which 96 MB are all there is."""
    own = next(iter(Kernel().oom_kills()), "/proc/vmstat")
    parent = Path(own).parent
    if not parent.is_relative_to("/sys/fs/cgroup"):
        pytest.skip("this process is in no memory cgroup of its own")
    folder = parent / f"forge-test-{os.getpid()}"
    limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error.strerror}")
    try:
        for limit in limits:
            if (folder / limit).exists():
                (folder / limit).write_text("0" if limit == "memory.swap.max" else f"{96 << 20}")
        if not any((folder / limit).exists() for limit in limits):
            pytest.skip("the memory controller is not handed down to cgroups made here")
        yield folder / "cgroup.procs"
    except OSError as error:
        pytest.skip(f"no cgroup with a limit can be made here: {error.strerror}")
    finally:
        folder.rmdir()


def test_a_real_kill_is_recognised_by_whoever_looks(engine: Engine, rig: Rig, little_memory: Path) -> None:
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(rig.paths.lease)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert victim.stdin is not None
    assert victim.stdout is not None
    try:
        little_memory.write_text(str(victim.pid))
    except OSError as error:
        victim.kill()
        victim.communicate()
        pytest.skip(f"no process can be moved into a cgroup here: {error.strerror}")
    victim.stdin.write("\n")
    victim.stdin.flush()
    token = victim.stdout.readline().strip()

    def live(c: Connection) -> None:
        edits.take_lease(c, rig.session_id, token, f"pid {victim.pid} on here", 1.0)
        edits.set_session_state(c, rig.session_id, State.RUNNING, now=1.0)

    rig.registry.write(live)
    assert engine.reconcile() == []
    victim.communicate("\n", timeout=60)
    assert victim.returncode == KILL
    assert engine.reconcile() == [rig.session_id]
    (said,) = rig.events("interrupted")
    assert "the kernel's out-of-memory killer" in said
    assert "smaller micro_batch" in said
