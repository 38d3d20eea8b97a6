"""The `forge-sample` thread: memory and load of the machine, once a second, into the session's metrics.

A probe that fails is left out of that sample; the next one is tried again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from forge.engine.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

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
        self._device: torch.device | None = None
        self._budget_bytes: float | None = None
        self.peak_rss = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def watch(self, device: torch.device, vram_budget_gb: float | None) -> None:
        """Sample the allocator of a CUDA device too; before that, torch may be only half imported."""
        if device.type == "cuda":
            self._device = device
            self._budget_bytes = None if vram_budget_gb is None else vram_budget_gb * 1e9

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
        if self._device is not None:
            values.update(_torch_memory(self._device))
        if self._budget_bytes is not None:
            values["budget_bytes"] = self._budget_bytes
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


def _torch_memory(device: torch.device) -> dict[str, float]:
    import torch

    return {
        "torch_allocated_bytes": float(torch.cuda.memory_allocated(device)),
        "torch_reserved_bytes": float(torch.cuda.memory_reserved(device)),
        "torch_peak_bytes": float(torch.cuda.max_memory_allocated(device)),
    }
