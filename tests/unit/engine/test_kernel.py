"""What the kernel says of its out-of-memory killer, read from files in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.engine.kernel import Kernel

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n"


class Machine:
    """A machine whose kernel says what a test wants."""

    def __init__(self, root: Path) -> None:
        self.kernel = Kernel(root / "proc", root / "cgroup", root / "kmsg")
        self.proc, self.cgroups = self.kernel.proc, self.kernel.cgroups
        self.write(self.proc / "vmstat", "nr_free_pages 812\noom_kill 5\n")
        self.write(self.proc / "sys/kernel/random/boot_id", "this-boot\n")
        self.write(self.proc / "self/cgroup", "0::/user.slice/session-3.scope\n")
        self.own = self.cgroups / "user.slice/session-3.scope/memory.events.local"
        self.kills(1)

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def kills(self, count: int) -> None:
        self.write(self.own, EVENTS.format(count))

    def says(self, *lines: str) -> None:
        self.write(self.kernel.log, "".join(f"{line}\n" for line in lines))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_counters_of_the_own_cgroup_and_of_the_machine(machine: Machine) -> None:
    assert machine.kernel.oom_kills() == {str(machine.own): 1, str(machine.proc / "vmstat"): 5}


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        # A container: the path is that of the host, and the mount begins at the container.
        ("0::/../../docker/4fa", "memory.events"),
        # Version 1, alone or beside an empty version 2.
        ("4:memory:/user/1000\n0::/", "memory/user/1000/memory.oom_control"),
        ("7:cpu,memory:/docker/4fa\n0::/", "cpu,memory/memory.oom_control"),
    ],
)
def test_every_version_of_cgroups(machine: Machine, lines: str, place: str) -> None:
    machine.own.unlink()
    machine.write(machine.proc / "self/cgroup", f"12:pids:/\n{lines}\n")
    machine.write(machine.cgroups / place, "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert machine.kernel.oom_kills()[str(machine.cgroups / place)] == 4


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    nothing = Kernel(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert nothing.oom_kills() == {}
    assert nothing.oom_kills_since({"/proc/vmstat": 3}) == (None, None)
    assert nothing.boot_id() == "unknown"
    assert not nothing.killed(1, 0.0)


def test_how_often_since(machine: Machine) -> None:
    before = machine.kernel.oom_kills()
    assert machine.kernel.oom_kills_since(before) == (0, 0)
    machine.kills(3)
    machine.write(machine.proc / "vmstat", "oom_kill 9\n")
    assert machine.kernel.oom_kills_since(before) == (2, 4)
    machine.own.unlink()
    assert machine.kernel.oom_kills_since(before) == (None, 4)
    machine.kills(0)  # a cgroup of that name was made anew
    assert machine.kernel.oom_kills_since(before) == (0, 4)


def test_a_name_in_a_lease_opens_nothing_but_counters(machine: Machine, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("oom_kill 99\n")
    names = (str(elsewhere), str(machine.cgroups / ".." / "elsewhere"), "relative", "")
    assert machine.kernel.oom_kills_since(dict.fromkeys(names, 0)) == (None, None)


@pytest.mark.parametrize(
    ("record", "known"),
    [
        ("6,812,95000000,-;Out of memory: Killed process 4121 (python3) total-vm:9", True),
        ("3,812,95000000,-,caller=T1;Memory cgroup out of memory: Killed process 4121 (python3)", True),
        ("6,812,95000000,-;Out of memory: Killed process 41210 (python3)", False),
        # An earlier bearer of the pid.
        ("6,812,20000000,-;Out of memory: Killed process 4121 (python3)", False),
        ("6,812,95000000,-;oom-kill:constraint=CONSTRAINT_NONE,task=python3,pid=4121", False),
        ("garbage", False),
    ],
)
def test_a_victim_is_named_in_the_log(machine: Machine, record: str, known: bool) -> None:
    machine.says("5,0,0,-;Linux version 6.18", " SUBSYSTEM=cpu", record)
    assert machine.kernel.killed(4121, since=90.0) is known


def test_an_earlier_victim_of_that_pid_hides_no_later_one(machine: Machine) -> None:
    machine.says(
        "6,812,20000000,-;Out of memory: Killed process 4121 (python3)",
        "6,990,95000000,-;Out of memory: Killed process 4121 (python3)",
    )
    assert machine.kernel.killed(4121, 100.0)


def test_the_log_of_this_machine_is_read_to_its_end_or_not_at_all() -> None:
    assert not Kernel().killed(2**22 + 1, 0.0)
    assert Kernel().boot_id()
