"""Where a session computes: device, precision, threads, determinism and the GPU memory budget.

These are properties of the process, set once before a phase starts and written into every checkpoint,
because another thread count or processor can change the last bit of a sum.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.config import RuntimeConfig
from forge.contract import Precision
from forge.engine.nvml import HIDDEN_BYTES, Card, Occupancy
from forge.errors import ConfigError, OutOfMemoryError

if TYPE_CHECKING:
    import torch

SAFETY_BYTES = 256 * 2**20
LEAST_BYTES = 512 * 2**20
"""The CUDA context and next to nothing; with less no run gets anywhere."""
MOST_CONTEXT_BYTES = 2 * 2**30
"""No CUDA context is larger; what a card holds beyond that belongs to others."""


@dataclass(frozen=True)
class Place:
    """A device made ready."""

    device: torch.device
    precision: Precision
    compile: bool
    budget_bytes: int | None
    """Cap of the tensor allocator, context already taken off."""

    def explain(self, error: Exception) -> OutOfMemoryError | None:
        """What ended a run for want of memory, with who else holds the card; none where that adds nothing."""
        from forge.optim.trainer import is_out_of_memory

        told = isinstance(error, OutOfMemoryError)
        if not told and not (isinstance(error, RuntimeError) and is_out_of_memory(error)):
            return None
        found = occupancy(self.device)
        others = found.sentence() if found else ""
        if told and not others:
            return None
        what = str(error) if told else f"out of memory on {self.device}: {str(error).splitlines()[0]}"
        return OutOfMemoryError(f"{what} On the card, {others}." if others else what)

    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same for a resumed run to be exact."""
        import torch

        where: dict[str, Any] = {
            "device": self.device.type,
            "precision": self.precision,
            "compile": self.compile,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        if self.device.type == "cuda":
            return {**where, "processor": torch.cuda.get_device_name(self.device)}
        return {**where, "processor": processor(), "capability": torch.backends.cpu.get_cpu_capability()}


def prepare(runtime: RuntimeConfig, threads: int | None = None) -> Place:
    """Make the device ready; `threads` overrides the configured number (a resumed run keeps its own).

    Raises:
        ConfigError: the device is not there, or the budget is smaller than the CUDA context.
        OutOfMemoryError: somebody else fills the card.
    """
    # Read by cuBLAS when the context is made; needed for deterministic matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads or runtime.threads or usable_cores())
    device = find_device(runtime)
    cuda = device.type == "cuda"
    # Only warned about, flash attention would go on adding up its gradients in any order.
    torch.use_deterministic_algorithms(runtime.deterministic, warn_only=not cuda)
    # Filling fresh memory with NaN is a debugging aid of the deterministic mode, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if cuda and runtime.deterministic:
        # Their backward passes add up in any order; what is left is flash attention and plain products.
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    precision = _automatic_precision(cuda) if runtime.precision == "auto" else runtime.precision
    compiled = runtime.compile if runtime.compile is not None else cuda
    budget = _apply_budget(device, runtime.vram_budget_gb) if cuda else None
    return Place(device, precision, compiled, budget)


def usable_cores() -> int:
    """Cores that this process may run on, which a container can make fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def find_device(runtime: RuntimeConfig) -> torch.device:
    """The configured device, once it is certain that it is there and has room.

    Raises:
        ConfigError: it is not there.
        OutOfMemoryError: somebody else fills the card; the message says who.
    """
    device = _device(runtime.device)
    found = occupancy(device)
    budget = runtime.vram_budget_gb
    needed = LEAST_BYTES if budget is None else int(budget * 1e9)
    # A budget larger than the card takes what is there.
    if found is not None and found.free < min(needed, found.total - HIDDEN_BYTES):
        wanted = "a run needs at least" if budget is None else "runtime.vram_budget_gb is"
        raise OutOfMemoryError(
            f"{device} has {found.free / 1e9:.1f} GB free, and {wanted} {needed / 1e9:.1f}: "
            f"{found.sentence()}. Wait until it is free, or take another card: --device cuda:N."
        )
    return device


def occupancy(device: torch.device) -> Occupancy | None:
    """Who holds the memory of a card; none for the CPU, and where the driver does not say."""
    card = Card.open(device) if device.type == "cuda" else None
    if card is None:
        return None
    import torch

    return card.occupancy(torch.cuda.memory_reserved(device) if torch.cuda.is_initialized() else 0)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(_no_device(name)) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(_no_device(name))
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(
            f'runtime.device is "{name}", but no CUDA device is usable here; use "cpu" or "auto".'
        )
    count = torch.cuda.device_count()
    # The allocator's settings want to know which.
    index = torch.cuda.current_device() if name == "cuda" else device.index
    if index >= count:
        raise ConfigError(
            f'runtime.device is "{name}", but there are {count} CUDA devices here, cuda:0 the first; '
            'name one of them or use "auto".'
        )
    return torch.device("cuda", index)


def _no_device(name: str) -> str:
    return f'runtime.device "{name}" is not a device that Forge uses; use auto, cpu, cuda or cuda:N.'


def _automatic_precision(cuda: bool) -> Precision:
    if not cuda:
        return "fp32"
    import torch

    # Emulated bf16 is slower than fp32: cards without it take fp16.
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _apply_budget(device: torch.device, budget_gb: float | None) -> int | None:
    """Cap the allocator at budget − CUDA context − a safety margin; returns the cap in bytes."""
    import torch

    if budget_gb is None:
        # A session hosted here before may have had one.
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        return None
    torch.ones(1024, 1024, device=device) @ torch.ones(1024, 1024, device=device)
    torch.cuda.synchronize(device)
    context = max(0, process_gpu_bytes(device) - torch.cuda.memory_reserved(device))
    cap = int(budget_gb * 1e9) - context - SAFETY_BYTES
    if cap <= 0:
        raise ConfigError(
            f"runtime.vram_budget_gb {budget_gb:g} is less than the CUDA context ({context / 1e9:.2f} GB) "
            f"and the safety margin; give it at least {(context + 2 * SAFETY_BYTES) / 1e9:.1f}."
        )
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap / total), device)
    return min(cap, total)


def process_gpu_bytes(device: torch.device) -> int:
    """GPU memory of this process as the driver counts it, else the most that it can be."""
    import torch

    card = Card.open(device)
    counted = card.process_bytes() if card else None
    if counted is not None:
        return counted
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    return min(int(total - free), reserved + MOST_CONTEXT_BYTES)


def processor() -> str:
    """The model of the processor: libraries choose their kernels by it."""
    try:
        listing = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in listing.split("\n") if line.startswith("model name")]
    return names[0] if names else platform.machine()
