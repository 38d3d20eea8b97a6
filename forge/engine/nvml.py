"""One NVIDIA card as its driver sees it; absent where there is no driver or no card.

NVML numbers all cards of the machine and knows nothing of CUDA_VISIBLE_DEVICES, so a card that torch uses is
looked up by its UUID, never by its index.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


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

    def _ask(self, question: Callable[[Any], T]) -> T | None:
        try:
            return question(self._handle)
        except self._nvml.NVMLError:
            return None


def _uuid(device: torch.device) -> str:
    import torch

    name = str(torch.cuda.get_device_properties(device).uuid)
    return name if name.startswith(("GPU-", "MIG-")) else f"GPU-{name}"
