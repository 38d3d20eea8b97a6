"""A session on the GPU under a memory budget, watched by its driver: a process of its own, one a budget.

The allocator's cap cannot be taken back, and what the CUDA context takes shows in the driver's count alone.

    python -m forge.validate.budget PRESET HOME BUDGET quick|full     # prints one JSON object
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forge.config import load_config
from forge.engine import Engine
from forge.home import Home
from forge.registry import queries

PERIOD_SECONDS = 0.05
FULL = ("pretrain.steps=60", "forging.steps=40", "forging.lambda_ramp_steps=10", "pretrain.warmup_steps=5",
        "forging.warmup_steps=5", "pretrain.eval_every=30", "forging.eval_every=20")  # fmt: skip
QUICK = ("pretrain.steps=8", "forging.steps=8", "forging.lambda_ramp_steps=2", "pretrain.warmup_steps=2",
         "forging.warmup_steps=2", "pretrain.eval_every=4", "forging.eval_every=4",
         "forging.control=false", "data.max_bytes=2000000")  # fmt: skip
"""Memory is at its most after a few steps and an evaluation."""


class Watch(threading.Thread):
    """The most GPU memory that this process was seen to hold."""

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._card = pynvml.nvmlDeviceGetHandleByIndex(0)
        self._before = pynvml.nvmlDeviceGetMemoryInfo(self._card).used
        self.peak = 0
        self.done = threading.Event()

    def run(self) -> None:
        """Ask the driver until told to stop."""
        while not self.done.wait(PERIOD_SECONDS):
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._card)
            own = next((each.usedGpuMemory for each in running if each.pid == os.getpid()), None)
            # Inside a container the driver may not tell processes apart; then what came since counts.
            since = self._nvml.nvmlDeviceGetMemoryInfo(self._card).used - self._before
            self.peak = max(self.peak, own or since)


def measure(home: Home, preset: str, budget_gb: float, settings: Sequence[str]) -> dict[str, Any]:
    """Run the session in this process."""
    config = load_config(preset, [*settings, f"runtime.vram_budget_gb={budget_gb}", "runtime.device=cuda"])
    watch = Watch()
    engine = Engine(home)
    began = time.monotonic()
    watch.start()
    run = engine.host(engine.create(config))
    run.wait()
    watch.done.set()
    watch.join()
    session = engine.session(run.session.id)
    events = engine.registry.fetch(queries.latest_events(run.session.id, 1000))
    engine.shutdown()
    import torch

    reserved = torch.cuda.max_memory_reserved()
    return {
        "preset": preset,
        "budget_gb": budget_gb,
        "outcome": str(session.state),
        "error": session.error,
        "peak_gb": watch.peak / 1e9,
        "context_gb": (watch.peak - reserved) / 1e9,
        "kept": watch.peak <= budget_gb * 1e9,
        "out_of_memory": [event.message for event in events if event.kind == "oom"],
        "inexact": [event.message for event in events if event.kind == "inexact"],
        "seconds": round(time.monotonic() - began, 1),
    }


def main(arguments: Sequence[str]) -> None:
    """Measure, and say what was found."""
    import torch

    preset, home, budget, how = arguments
    if not torch.cuda.is_available():
        found: dict[str, Any] = {"cannot": f"torch {torch.__version__} finds no CUDA device"}
    else:
        found = measure(Home(Path(home)), preset, float(budget), QUICK if how == "quick" else FULL)
    sys.stdout.write(f"{json.dumps(found)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
