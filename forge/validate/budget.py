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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forge.config import load_config
from forge.engine import Engine
from forge.home import Home
from forge.registry import queries

PERIOD_SECONDS = 0.05
LOOK_SECONDS = 30.0
SPARE_BYTES = 500_000_000
"""What must stay free on the card beside what is planted."""
FULL = ("pretrain.steps=60", "forging.steps=40", "forging.lambda_ramp_steps=10", "pretrain.warmup_steps=5",
        "forging.warmup_steps=5", "pretrain.eval_every=30", "forging.eval_every=20")  # fmt: skip
QUICK = ("pretrain.steps=8", "forging.steps=8", "forging.lambda_ramp_steps=2", "pretrain.warmup_steps=2",
         "forging.warmup_steps=2", "pretrain.eval_every=4", "forging.eval_every=4",
         "forging.control=false", "data.max_bytes=2000000")  # fmt: skip
"""Memory is at its most after a few steps and an evaluation."""


class Watch(threading.Thread):
    """The most memory that a meter was seen to show, asked again and again."""

    def __init__(self, meter: Callable[[], int]) -> None:
        super().__init__(name="watch", daemon=True)
        self._meter = meter
        self._looked = threading.Condition()
        self._looks = 0
        self.peak = 0
        self.done = threading.Event()

    def run(self) -> None:
        """Ask the meter until told to stop."""
        while not self.done.wait(PERIOD_SECONDS):
            shown = self._meter()
            with self._looked:
                self.peak = max(self.peak, shown)
                self._looks += 1
                self._looked.notify_all()

    def look(self) -> None:
        """Return when the meter was asked anew; a question under way may be older than what is to be seen."""
        with self._looked:
            wanted = self._looks + 2
            self._looked.wait_for(lambda: self._looks >= wanted, LOOK_SECONDS)

    def end(self) -> int:
        """Stop asking; the peak."""
        self.done.set()
        self.join()
        return self.peak


def driver() -> Callable[[], int]:
    """The GPU memory of this process, as the driver counts it."""
    import pynvml

    pynvml.nvmlInit()
    card = pynvml.nvmlDeviceGetHandleByIndex(0)
    before = pynvml.nvmlDeviceGetMemoryInfo(card).used

    def used() -> int:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(card)
        own = next((each.usedGpuMemory for each in running if each.pid == os.getpid()), None)
        # Inside a container the driver may not tell processes apart; then what came since counts.
        return int(own or pynvml.nvmlDeviceGetMemoryInfo(card).used - before)

    return used


def planted(meter: Callable[[], int], size: int, take: Callable[[int], object]) -> int:
    """The peak that a watch sees while `size` bytes are held that somebody took behind the allocator's back.

    A watch that saw no budget kept and none broken either would miss them.
    """
    watch = Watch(meter)
    watch.start()
    held = take(size)
    watch.look()
    del held
    return watch.end()


def _past_the_cap(meter: Callable[[], int], size: int) -> int | None:
    """`planted` on the card; none where it has no room for that."""
    import torch

    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < size + SPARE_BYTES:
        return None
    torch.cuda.set_per_process_memory_fraction(1.0)
    return planted(meter, size, lambda count: torch.ones(count, dtype=torch.uint8, device="cuda"))


def measure(home: Home, preset: str, budget_gb: float, settings: Sequence[str]) -> dict[str, Any]:
    """Run the session in this process."""
    config = load_config(preset, [*settings, f"runtime.vram_budget_gb={budget_gb}", "runtime.device=cuda"])
    meter = driver()
    watch = Watch(meter)
    engine = Engine(home)
    began = time.monotonic()
    watch.start()
    run = engine.host(engine.create(config))
    run.wait()
    peak = watch.end()
    session = engine.session(run.session.id)
    events = engine.registry.fetch(queries.latest_events(run.session.id, 1000))
    engine.shutdown()
    import torch

    reserved = torch.cuda.max_memory_reserved()
    broken = _past_the_cap(meter, int(budget_gb * 1e9))
    return {
        "preset": preset,
        "budget_gb": budget_gb,
        "outcome": str(session.state),
        "error": session.error,
        "peak_gb": peak / 1e9,
        "context_gb": (peak - reserved) / 1e9,
        "kept": peak <= budget_gb * 1e9,
        "planted_gb": None if broken is None else broken / 1e9,
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
