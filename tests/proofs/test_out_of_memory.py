"""Main memory that is full in earnest: the kernel's out-of-memory killer ends a run in a cgroup with a limit.

Only root may make a cgroup, and only where the memory controller is at hand, of version 2 or 1. The killer is
confined to that cgroup: nothing outside of it is ever chosen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from forge.engine.kernel import Kernel
from forge.engine.lease import read_info
from forge.home import Home
from tests.unit.engine.killing import write_text

pytestmark = pytest.mark.proofs

ROOT = Path(__file__).resolve().parents[2]
CGROUPS = Path("/sys/fs/cgroup")
LIMIT = 700_000_000
"""Enough for torch and a small model; the steps of this one want several times as much."""
LIMITS = {"memory.max": LIMIT, "memory.swap.max": 0, "memory.limit_in_bytes": LIMIT,
          "memory.memsw.limit_in_bytes": LIMIT}  # fmt: skip
"""What either version of cgroups calls it; without swap, which would only make it slow."""
FORGE = [sys.executable, "-c", "from forge.cli import main; main()"]

CONFIG = """\
name: hungry
model: {vocab_size: 300, d_model: 64, n_layers: 4, n_heads: 2, d_ff: 2048, max_seq_len: 256}
data: {corpus: "%s", seq_len: 256, dev_fraction: 0.2, test_fraction: 0.2}
phases: [pretrain]
pretrain: {steps: 100, batch_size: 256, micro_batch: 256, warmup_steps: 1, eval_every: 100, eval_tokens: 1024,
  report_tokens: 1024}
runtime: {device: cpu, threads: 1}
"""


@contextmanager
def small_memory() -> Iterator[Path]:
    """A cgroup whose processes have little memory together.

    Raises:
        OSError: none can be made here.
    """
    unified = (CGROUPS / "cgroup.controllers").exists()
    if unified and "memory" not in (CGROUPS / "cgroup.subtree_control").read_text("ascii").split():
        raise OSError("the memory controller is not handed on to new cgroups")
    group = (CGROUPS if unified else CGROUPS / "memory") / f"forge-proof-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        set_limits = 0
        for name, value in LIMITS.items():
            # In this order: version 1 refuses a limit with swap below that without.
            if (group / name).exists():
                (group / name).write_text(str(value), "ascii")
                set_limits += name in ("memory.max", "memory.limit_in_bytes")
        if not set_limits:
            raise OSError("its cgroups have no limit of memory")
        yield group
    finally:
        _empty(group)


def _empty(group: Path) -> None:
    """Remove a cgroup once the kernel has buried its last process."""
    deadline = time.monotonic() + 60
    while (group / "cgroup.procs").read_text("ascii").strip():
        assert time.monotonic() < deadline, f"somebody still lives in {group}"
        time.sleep(0.05)
    group.rmdir()


def forge(home: Home, *arguments: str, group: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command, in a cgroup or in that of this test."""
    enter = f"echo $$ > {group}/cgroup.procs && " if group is not None else ""
    return subprocess.run(
        ["/bin/sh", "-c", f'{enter}exec "$@"', "sh", *FORGE, *arguments],
        env={**os.environ, "FORGE_HOME": str(home.root), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def seen(home: Home) -> dict[str, Any]:
    """The session as `forge status` shows it."""
    (facts,) = json.loads(forge(home, "status", "hungry", "--json").stdout)["sessions"]
    return dict(facts)


@pytest.mark.parametrize("host", ["process", "thread"])
def test_whom_the_kernel_has_ended_for_want_of_memory_is_told_so(tmp_path: Path, host: str) -> None:
    home, config = Home(tmp_path / "home"), tmp_path / "hungry.yaml"
    config.write_text(CONFIG % write_text(tmp_path / "text", 300), "utf-8")
    with ExitStack() as made:
        try:
            group = made.enter_context(small_memory())
        except OSError as error:
            pytest.skip(f"no cgroup with a limit of memory can be made here: {error}")
        run = forge(home, "run", str(config), "--name", "hungry", "--host", host, group=group)
        # While the cgroup is there: its counter goes with it.
        facts = seen(home)
        info = read_info(home.session(facts["id"]).lease)
        assert info is not None
        inside, machine = Kernel(log=tmp_path / "unreadable").oom_kills_since(info.oom_kills)
    said = facts["events"][-1]["message"]
    print(f"\nhost {host}, exit {run.returncode}, kills by {info.oom_kills}: {inside}, {machine}: {said}")
    assert facts["state"] == "interrupted", facts
    # That the victim was this very process only its parent and the kernel's log can know.
    sure = host == "process" or Kernel().killed(info.pid, info.uptime)
    how = "was ended" if sure else "most likely"
    assert f"{how} by the kernel's out-of-memory killer" in said
    # Who may not read the kernel's log is told by its counters.
    assert inside == 1
    assert machine is not None
    assert machine >= 1
    assert "close other programs or add swap" in said
    if host == "process":
        # Its starter lives on, and tells whoever watches.
        assert run.returncode > 0
        assert "out-of-memory killer" in run.stderr
    else:
        assert run.returncode == -9
