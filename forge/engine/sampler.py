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

from forge.engine.nvml import Card
from forge.engine.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

PHASE = "system"
PERIOD_SECONDS = 1.0


class Sampler:
    """Logs samples under the phase `system`, with unix milliseconds as the step."""

    def __init__(
        self,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
        period: float = PERIOD_SECONDS,
    ) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._period = period
        self._stop = threading.Event()
        self._process = psutil.Process(os.getpid())
        self._card = Card.open()
        self._thread = threading.Thread(target=self._run, name="forge-sample", daemon=True)
        self._device: torch.device | None = None
        self._budget_bytes: float | None = None
        self._peak_rss = 0
        self.failures = 0
        """Looks that failed."""

    def start(self) -> None:
        """Start the thread."""
        # The first answer is about the time since the last question, and there was none.
        psutil.cpu_percent()
        self._thread.start()

    def watch(self, device: torch.device, vram_budget_gb: float | None) -> None:
        """Sample the allocator of a CUDA device too; before that, torch may be only half imported."""
        if device.type == "cuda":
            self._card = Card.open(device)
            self._budget_bytes = None if vram_budget_gb is None else vram_budget_gb * 1e9
            self._device = device

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def sample(self) -> dict[str, float]:
        """One look at the machine."""
        memory = psutil.virtual_memory()
        values: dict[str, float] = {
            "rss_bytes": self._resident(),
            "ram_used_bytes": memory.total - memory.available,
            "ram_total_bytes": memory.total,
            "cpu_percent": psutil.cpu_percent(),
        }
        values.update(self._card.sample() if self._card else {})
        if self._device is not None:
            values.update(_torch_memory(self._device))
        if self._budget_bytes is not None:
            values["budget_bytes"] = self._budget_bytes
        return values

    def reset_peak(self) -> None:
        """Begin to look for the peak anew: a phase begins."""
        self._peak_rss = 0
        if self._device is not None:
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)

    @property
    def peak_bytes(self) -> int:
        """Most memory since `reset_peak`: of the card where there is one, else resident in main memory."""
        if self._device is not None:
            import torch

            return int(torch.cuda.max_memory_reserved(self._device))
        self._resident()
        return self._peak_rss

    def _resident(self) -> int:
        resident = int(self._process.memory_info().rss)
        self._peak_rss = max(self._peak_rss, resident)
        return resident

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                values = self.sample()
            except Exception:  # noqa: BLE001 - a look at the machine must not end the looks that follow
                self.failures += 1
            else:
                self._telemetry.log(PHASE, int(self._clock() * 1000), values)


def _torch_memory(device: torch.device) -> dict[str, float]:
    import torch

    return {
        "torch_allocated_bytes": float(torch.cuda.memory_allocated(device)),
        "torch_reserved_bytes": float(torch.cuda.memory_reserved(device)),
        "torch_peak_bytes": float(torch.cuda.max_memory_allocated(device)),
    }
