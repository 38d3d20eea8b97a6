"""A disk that is full in earnest: a run on a file system of a few megabytes, seen by one process only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.engine.killing import write_text

ROOT = Path(__file__).resolve().parents[2]
SMALL_DISK = Path(__file__).with_name("small_disk.py")


def may_mount() -> bool:
    """Whether this kernel lets a process have mounts of its own."""
    if sys.platform != "linux":
        return False
    return subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.proofs
@pytest.mark.skipif(not may_mount(), reason="needs user namespaces (unshare -Urm)")
def test_a_full_disk_holds_a_run_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["unshare", "-Urm", sys.executable, str(SMALL_DISK), str(disk), write_text(tmp_path / "text")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(f"\n{json.dumps(found, indent=1)}")
    for name in ("nothing", "a little"):
        case = found[name]
        assert case["outcome"] == "completed", case
        assert case["same"], case
        assert any(event.startswith("disk: no checkpoint at step 4") for event in case["events"]), case
        assert case["events"][-1] == "continue: the checkpoint of step 4 is written"
    assert found["a little"]["state"] == "paused"
    assert "are free where" in found["a little"]["status"]
    # What had been in the trash for its grace period makes the room: the run does not even pause.
    freed = found["expired trash"]
    assert (freed["outcome"], freed["same"], freed["status"]) == ("completed", True, "")
    assert [event for event in freed["events"] if event.startswith("disk")] == []
    assert "cleanup deleted 1 session" in freed["events"][0]
