"""The `forge-sample` thread: memory and load of the machine, once a second, into the session's metrics.

A probe that fails is left out of that sample; the next one is tried again.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import psutil

from forge.engine.telemetry import Telemetry

PHASE = "system"
PERIOD_SECONDS = 1.0


class Sampler:
    """Logs samples under the phase `system`, with unix milliseconds as the step."""

    def __init__(self, telemetry: Telemetry, clock: Callable[[], float] = time.time) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._stop = threading.Event()
        self._process = psutil.Process(os.getpid())
        self._gpu = _open_nvml()
        self._thread = threading.Thread(target=self._run, name="forge-sample", daemon=True)
        self.peak_rss = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def sample(self) -> dict[str, float]:
        """One look at the machine."""
        memory = psutil.virtual_memory()
        rss = self._process.memory_info().rss
        self.peak_rss = max(self.peak_rss, rss)
        values: dict[str, float] = {
            "rss_bytes": rss,
            "ram_used_bytes": memory.total - memory.available,
            "ram_total_bytes": memory.total,
            "cpu_percent": psutil.cpu_percent(),
        }
        values.update(self._gpu() if self._gpu else {})
        values.update(_torch_memory())
        return values

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            self._telemetry.log(PHASE, int(self._clock() * 1000), self.sample())


def _open_nvml() -> Callable[[], dict[str, float]] | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # noqa: BLE001 - no driver, no card, or one without NVML: nothing to sample
        return None

    def probe() -> dict[str, float]:
        values: dict[str, float] = {}
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            values["gpu_used_bytes"], values["gpu_total_bytes"] = float(memory.used), float(memory.total)
            values["gpu_percent"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            own = [p for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
            if own and own[0].usedGpuMemory:
                values["gpu_process_bytes"] = float(own[0].usedGpuMemory)
        except pynvml.NVMLError:
            return values
        return values

    return probe


def _torch_memory() -> dict[str, float]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "torch_allocated_bytes": float(torch.cuda.memory_allocated()),
        "torch_reserved_bytes": float(torch.cuda.memory_reserved()),
        "torch_peak_bytes": float(torch.cuda.max_memory_allocated()),
    }
