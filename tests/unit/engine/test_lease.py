"""Held is alive, free is dead, and a lease never outlives its owner."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from forge.engine.lease import Lease, read_info
from forge.errors import ForgeError, SessionLeasedError
from forge.locks import is_held
from tests.unit.engine.test_kernel import Machine

HOLD = """
import os, sys
from pathlib import Path
from forge.engine.lease import Lease
lease = Lease.acquire(Path(sys.argv[1]), "otter")
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == str(process.pid)
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_named_and_kept_out(path: Path, holder: subprocess.Popen[str]) -> None:
    assert is_held(path)
    with pytest.raises(SessionLeasedError) as caught:
        Lease.acquire(path, "otter")
    message = str(caught.value)
    assert re.match(rf"otter is running in pid {holder.pid} on \S+ since \d\d:\d\d; ", message)
    assert 'attach with "forge-tui otter" or stop it with "forge stop otter"' in message
    assert caught.value.exit_code == 5


def test_a_killed_owner_frees_it_at_once_and_its_file_means_nothing(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    assert not is_held(path)
    stale = read_info(path)
    assert stale is not None
    assert stale.pid == holder.pid
    mine = Lease.acquire(path, "otter")
    assert read_info(path) == mine.info
    assert mine.info.token != stale.token
    mine.release()


def test_released_it_is_free_and_twice_is_no_error(path: Path) -> None:
    lease = Lease.acquire(path, "otter")
    assert is_held(path)
    lease.release()
    lease.release()
    assert not is_held(path)
    Lease.acquire(path, "otter").release()


def test_kills_are_noted_anew_while_it_is_held(path: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    lease = Lease.acquire(path, "otter")
    token = lease.info.token
    for kills in (7, 123_456, 7):
        machine.kills(kills)
        lease.note_kills(machine.kernel)
        noted = read_info(path)
        assert noted is not None
        assert (noted.token, noted.oom_kills[str(machine.own)]) == (token, kills)
    written = path.stat().st_mtime_ns
    lease.note_kills(machine.kernel)
    assert path.stat().st_mtime_ns == written, "nothing struck, so nothing is written"
    lease.release()
    machine.kills(8)
    lease.note_kills(machine.kernel)
    assert read_info(path) == lease.info, "a lease that was given back is somebody else's to write"


def test_this_process_cannot_take_it_twice(path: Path) -> None:
    lease = Lease.acquire(path, "otter")
    with pytest.raises(SessionLeasedError, match=f"pid {os.getpid()}"):
        Lease.acquire(path, "otter")
    lease.release()


def test_who_only_looks_does_not_keep_an_owner_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Lease.acquire(path, "otter").release()
    look = os.open(path, os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        os.close(look)

    monkeypatch.setattr(time, "sleep", sleep)
    Lease.acquire(path, "otter").release()
    assert len(waits) == 1


def test_a_taker_that_has_not_written_its_name_yet_is_not_mistaken_for_the_one_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lease.acquire(path, "otter").release()  # leaves its name
    before = read_info(path)
    assert before is not None
    other = os.open(path, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    name = path.read_text().replace(before.token, "OTHER").replace(f'"pid": {os.getpid()}', '"pid": 4121')
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            path.write_text(name)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(SessionLeasedError, match="pid 4121"):
        Lease.acquire(path, "otter")
    os.close(other)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": "x"}', "\0"])
def test_a_half_written_file_is_no_name(path: Path, text: str) -> None:
    path.write_text(text)
    assert read_info(path) is None
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(SessionLeasedError, match="run by another process"):
        Lease.acquire(path, "otter")
    os.close(descriptor)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pid", '"4121"'),
        ("host", "[]"),
        ("token", "null"),
        ("boot_id", "3"),
        ("since", "1e300"),
        ("since", "NaN"),
        ("since", "-1"),
        ("uptime", "Infinity"),
        ("oom_kills", "[]"),
        ("oom_kills", '{"x": 0.5}'),
    ],
)
def test_a_file_with_something_else_in_it_is_no_name(path: Path, field: str, value: str) -> None:
    lease = Lease.acquire(path, "otter")
    lease.release()
    assert read_info(path) == lease.info
    fields = {**asdict(lease.info), field: "HERE"}
    path.write_text(json.dumps(fields).replace('"HERE"', value))
    assert read_info(path) is None


def test_a_shorter_name_leaves_nothing_of_a_longer_one(path: Path) -> None:
    path.write_text("x" * 5000)
    lease = Lease.acquire(path, "otter")
    assert read_info(path) == lease.info
    lease.release()


def test_a_folder_that_is_gone_is_said_in_a_sentence(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "gone" / "lease")
    with pytest.raises(
        ForgeError, match=r"lease of otter cannot be taken.*No such file.*Nothing was started"
    ):
        Lease.acquire(tmp_path / "gone" / "lease", "otter")


def test_a_disk_that_refuses_the_name_leaves_it_free(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ForgeError, match="No space left"):
        Lease.acquire(path, "otter")
    assert not is_held(path)


def test_a_lease_on_a_file_that_was_moved_away_is_none(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    moved = tmp_path / "trash"

    def flock(descriptor: int, operation: int) -> None:
        if not moved.exists():
            path.rename(moved)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lease = Lease.acquire(path, "otter")
    monkeypatch.undo()
    assert is_held(path)
    assert not is_held(moved)
    lease.release()


def test_a_forked_child_does_not_keep_it(path: Path) -> None:
    lease = Lease.acquire(path, "otter")
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert is_held(path)
    lease.release()
    held = is_held(path)
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    for descriptor in (*ready, *go):
        os.close(descriptor)
    assert not held


def test_a_forked_child_that_gives_it_back_does_not_take_it_from_its_parent(path: Path) -> None:
    lease = Lease.acquire(path, "otter")
    child = os.fork()
    if child == 0:
        lease.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert is_held(path)
    lease.release()


def test_a_started_program_does_not_inherit_it(path: Path) -> None:
    lease = Lease.acquire(path, "otter")
    process = subprocess.Popen(["sleep", "60"], close_fds=False)
    lease.release()
    assert not is_held(path)
    process.kill()
    process.wait()
