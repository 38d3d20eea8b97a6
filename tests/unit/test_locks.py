"""Locks: one alone or several together, on files and folders, and never through a link."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forge import locks
from forge.engine.lease import Lease
from forge.errors import ForgeError


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.hold(path) as first, locks.hold(path) as second:
        assert (first, second) == (True, False)
        assert locks.is_held(path)
    assert not locks.is_held(path)
    with locks.hold(path) as third:
        assert third


def test_shared_ones_keep_out_who_wants_it_alone(tmp_path: Path) -> None:
    with locks.hold(tmp_path, shared=True) as first, locks.hold(tmp_path, shared=True) as second:
        assert first
        assert second
        assert locks.is_used(tmp_path)
        assert not locks.is_held(tmp_path)
        with locks.hold(tmp_path) as alone:
            assert not alone
    assert not locks.is_used(tmp_path)


def test_a_model_that_is_read_keeps_its_session(tmp_path: Path) -> None:
    session = tmp_path / "sessions" / "01J00000000000000000000001"
    model = session / "models" / "m"
    model.mkdir(parents=True)
    with locks.reading(model):
        assert not locks.is_used(session)
    (session / "session.yaml").touch()
    linked = tmp_path / "link"
    linked.symlink_to(model)
    for path in (model, model / "model.safetensors", linked):
        with locks.reading(path):
            assert locks.is_used(session)
            assert not locks.is_held(session)
        assert not locks.is_used(session)


def test_who_only_looks_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.touch()
    descriptor = os.open(path, os.O_RDONLY)
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_SH)
    # The look is over by the first retry.
    monkeypatch.setattr("forge.locks.time.sleep", lambda seconds: os.close(descriptor))
    with locks.hold(path) as mine:
        assert mine


def test_looking_makes_nothing_and_a_missing_file_is_free(tmp_path: Path) -> None:
    assert not locks.is_held(tmp_path / "none")
    assert not locks.is_used(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"), locks.hold(tmp_path / "link"):
        pass
    assert not (tmp_path / "target").exists()


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys\nfrom pathlib import Path\nfrom forge import locks\n"
        f"with locks.hold(Path({str(path)!r})) as mine:\n    print(mine, flush=True)\n    sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "True\n"
        assert locks.is_held(path)
    finally:
        holder.kill()
        holder.communicate()
    assert not locks.is_held(path)


def test_a_session_s_lease_is_such_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    lease = Lease.acquire(path, "otter")
    with locks.hold(path) as mine:
        assert not mine
    lease.release()
    with locks.hold(path) as mine:
        assert mine
        with pytest.raises(Exception, match="otter is"):
            Lease.acquire(path, "otter")


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    with locks.hold(target):
        (tmp_path / "lease").symlink_to(target)
        with pytest.raises(OSError, match="symbolic"):
            locks.is_held(tmp_path / "lease")
    with pytest.raises(ForgeError, match="lease"):
        Lease.acquire(tmp_path / "lease", "swift-otter-12")
