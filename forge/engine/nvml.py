"""One NVIDIA card as its driver sees it; absent where there is no driver or no card.

NVML numbers all cards of the machine and knows nothing of CUDA_VISIBLE_DEVICES, so a card that torch uses is
looked up by its UUID, never by its index.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from forge.text import clean

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

HIDDEN_BYTES = 1 << 30
"""What a driver keeps for itself is less."""


@dataclass(frozen=True)
class Occupancy:
    """Who holds how much of a card's memory, in bytes."""

    total: int
    free: int
    """What is free, and what this process holds already."""
    others: tuple[tuple[str, int | None], ...]
    """Other processes that the driver names, the largest first; without a size where it gives none."""

    def sentence(self) -> str:
        """Who else is there, for a person; empty where nobody is known and nothing is missing."""
        known = [f"{who} {_gigabytes(size)}" if size else who for who, size in self.others]
        hidden = self.total - self.free - sum(size or 0 for _, size in self.others)
        if not known and hidden < HIDDEN_BYTES:
            return ""
        by = f", by {', '.join(known)}" if known else "; the driver does not say by whom"
        return f"{_gigabytes(self.total - self.free)} of {_gigabytes(self.total)} are taken{by}"


class Card:
    """A card that was found; each question is asked alone, so that one without answer spoils no other."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._nvml, self._handle = library, handle

    @classmethod
    def open(cls, device: torch.device | None = None) -> Card | None:
        """The card that torch calls `device`, else the first of the machine; none where there is none."""
        try:
            import pynvml

            pynvml.nvmlInit()
            if device is None:
                handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            else:
                handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(device))
        except Exception:  # noqa: BLE001 - no driver, no card, or one without NVML: nothing to ask
            return None
        return cls(pynvml, handle)

    def sample(self) -> dict[str, float]:
        """Memory and load now; what the card does not tell is left out."""
        values: dict[str, float] = {}
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo)
        if memory is not None:
            values["gpu_used_bytes"], values["gpu_total_bytes"] = float(memory.used), float(memory.total)
        load = self._ask(self._nvml.nvmlDeviceGetUtilizationRates)
        if load is not None:
            values["gpu_percent"] = float(load.gpu)
        own = self.process_bytes()
        if own is not None:
            values["gpu_process_bytes"] = float(own)
        return values

    def process_bytes(self) -> int | None:
        """Memory that this process holds; none in a container, where the driver knows other process ids."""
        processes = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses) or []
        own = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
        return int(own[0]) if own and own[0] else None

    def occupancy(self, held: int = 0) -> Occupancy | None:
        """Who holds its memory; none where the card does not tell how much there is.

        `held` is what this process knows to hold itself, for a driver that does not know this process.
        """
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo)
        if memory is None:
            return None
        processes = [
            *(self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses) or []),
            *(self._ask(self._nvml.nvmlDeviceGetGraphicsRunningProcesses) or []),
        ]
        sizes = {process.pid: process.usedGpuMemory for process in processes}
        own = sizes.pop(os.getpid(), None) or held
        by_size = sorted(sizes.items(), key=lambda item: item[1] or 0, reverse=True)
        free = min(int(memory.total), int(memory.total) - int(memory.used) + own)
        return Occupancy(int(memory.total), free, tuple((_process(pid), size) for pid, size in by_size))

    def _ask(self, question: Callable[[Any], T]) -> T | None:
        try:
            return question(self._handle)
        except self._nvml.NVMLError:
            return None


def _process(pid: int) -> str:
    """A process in words, as far as it can be looked at."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return clean(f"{process.name()} (pid {pid}, {process.username()})")
    except (psutil.Error, KeyError):
        # Of another user, of another container, or gone.
        return f"pid {pid}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _uuid(device: torch.device) -> str:
    import torch

    name = str(torch.cuda.get_device_properties(device).uuid)
    return name if name.startswith(("GPU-", "MIG-")) else f"GPU-{name}"
