"""Whether `25m` keeps to a GPU memory budget: a real session through the engine, watched by NVML.

    python -m benchmarks.gpu_budget               # the preset's own 6 GB, then 1.5 GB

Prints one JSON object a budget. A budget that is too small for the micro-batch must show as out-of-memory
events and a completed session, never as a failure; the CUDA context counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

PERIOD_SECONDS = 0.05
STEPS = ("pretrain.steps=60", "forging.steps=40", "forging.lambda_ramp_steps=10", "pretrain.warmup_steps=5",
         "forging.warmup_steps=5", "pretrain.eval_every=30", "forging.eval_every=20")  # fmt: skip


class Watch(threading.Thread):
    """The most GPU memory that this process was seen to hold."""

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        self.peak = 0
        self.done = threading.Event()

    def run(self) -> None:
        """Ask the driver until told to stop."""
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        while not self.done.wait(PERIOD_SECONDS):
            own = [p for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
            used = own[0].usedGpuMemory if own else None
            # Inside a container the driver may not tell processes apart; a lent card has no other.
            self.peak = max(self.peak, used or pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def measure(budget_gb: float, preset: str) -> dict[str, Any]:
    """Run the session in this process."""
    from forge.config import load_config
    from forge.engine import Engine
    from forge.home import Home
    from forge.registry import queries

    config = load_config(preset, [*STEPS, f"runtime.vram_budget_gb={budget_gb}", "runtime.device=cuda"])
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Home(Path(folder)))
        began = time.monotonic()
        watch.start()
        run = engine.host(engine.create(config))
        run.wait()
        watch.done.set()
        session = engine.session(run.session.id)
        events = engine.registry.fetch(queries.latest_events(run.session.id, 1000))
        engine.shutdown()
    return {
        "preset": preset,
        "budget_gb": budget_gb,
        "outcome": str(session.state),
        "error": session.error,
        "peak_gb": watch.peak / 1e9,
        "kept": watch.peak <= budget_gb * 1e9,
        "out_of_memory": [e.message for e in events if e.kind == "oom"],
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """One fresh process a budget: the allocator's cap cannot be taken back."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="25m")
    parser.add_argument("--budgets", nargs="+", type=float, default=[6.0, 1.5])
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, arguments.preset)), flush=True)
        return
    for budget in arguments.budgets:
        command = [sys.executable, "-m", "benchmarks.gpu_budget", "--preset", arguments.preset]
        subprocess.run([*command, "--one", str(budget)], check=False)


if __name__ == "__main__":
    main()
