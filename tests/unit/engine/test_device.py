"""Where a session computes: made ready on the CPU here, refused in words where it cannot be."""

from __future__ import annotations

import os
import platform
import random
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from forge.config import RuntimeConfig
from forge.engine import device as devices
from forge.engine.device import Place, prepare, processor, usable_cores
from forge.engine.generators import SeededGenerators
from forge.errors import ConfigError, OutOfMemoryError


def runtime(**settings: Any) -> RuntimeConfig:
    return RuntimeConfig.model_validate({"device": "cpu", **settings})


def test_the_cpu_is_made_ready() -> None:
    place = prepare(runtime(threads=1))
    assert place.device == torch.device("cpu")
    assert (place.precision, place.compile, place.budget_bytes) == ("fp32", False, None)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def test_settings_that_a_person_made_win_over_what_is_automatic() -> None:
    place = prepare(runtime(threads=1, precision="bf16", compile=True, deterministic=False))
    assert (place.precision, place.compile) == ("bf16", True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_threads_are_those_of_the_checkpoint_then_the_setting_then_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    prepare(runtime(threads=2), threads=4)
    assert torch.get_num_threads() == 4
    prepare(runtime(threads=2))
    assert torch.get_num_threads() == 2
    prepare(runtime())
    assert torch.get_num_threads() == 3


def test_cores_without_an_affinity_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_auto_takes_what_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert prepare(RuntimeConfig(device="auto", threads=1)).device.type == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", "meta", "", "cpu cpu"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f'runtime.device "{name}" is not a device that Forge uses; use auto'
    ):
        prepare(runtime(device=name))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_one_is_refused() -> None:
    with pytest.raises(ConfigError, match='"cuda:0", but no CUDA device is usable here; use "cpu" or "auto"'):
        prepare(runtime(device="cuda:0"))


def test_a_card_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r'"cuda:2", but there are 2 CUDA devices here'):
        prepare(runtime(device="cuda:2"))


def test_the_fingerprint_names_what_can_change_a_sum() -> None:
    found = prepare(runtime(threads=1)).fingerprint()
    assert found == {
        "device": "cpu", "precision": "fp32", "compile": False, "threads": 1, "torch": torch.__version__,
        "processor": processor(), "capability": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
    torch.set_num_threads(2)
    assert prepare(runtime(threads=2)).fingerprint() != found


def test_a_processor_without_a_listing_has_a_name_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor()

    def unreadable(*_: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", unreadable)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert processor() == "arm"


class Card:
    """A card whose driver counts, or does not count, what this process holds."""

    counted: int | None = 700

    def process_bytes(self) -> int | None:
        return self.counted


@pytest.mark.parametrize(
    ("counted", "free", "expected"),
    [
        (700, 0, 700),
        (None, 10_000 - 900, 900),  # the whole use is ours at most
        (None, 0, 100 + 5000),  # others are there too: a context is never that large
    ],
)
def test_the_memory_of_this_process_is_counted_or_bounded(
    monkeypatch: pytest.MonkeyPatch, counted: int | None, free: int, expected: int
) -> None:
    card = Card()
    card.counted = counted
    monkeypatch.setattr("forge.engine.nvml.Card.open", lambda device: card)
    monkeypatch.setattr(devices, "MOST_CONTEXT_BYTES", 5000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100)
    assert devices.process_gpu_bytes(torch.device("cuda", 0)) == expected


# --- a card that is full --------------------------------------------------------------------------------

GB = 10**9


class Driver(ModuleType):
    """pynvml with one card of 80 GB; `free` of it is free, and processes hold the rest."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self, free: float, holders: dict[int, float | None]) -> None:
        super().__init__("pynvml")
        self.free, self.holders = free, holders

    def nvmlInit(self) -> None:
        return None

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(total=80 * GB, used=int((80 - self.free) * GB))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if size is None else int(size * GB))
            for pid, size in self.holders.items()
        ]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        raise self.NVMLError("Not Supported")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Two cards, of which the driver tells what a test says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="GPU-1"))

    def process(pid: int) -> Any:
        if pid != 4121:
            raise psutil.AccessDenied(pid)
        names = SimpleNamespace(name=lambda: "py\x1bthon", username=lambda: "anna", oneshot=nullcontext)
        return names

    monkeypatch.setattr(psutil, "Process", process)

    def plug_in(free: float, holders: dict[int, float | None]) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", Driver(free, holders))

    return plug_in


def test_a_card_that_somebody_fills_is_refused_with_who_holds_it(card: Callable[..., None]) -> None:
    card(0.25, {7: 5.2, 4121: 74.25})
    with pytest.raises(OutOfMemoryError) as caught:
        devices.find_device(RuntimeConfig(device="cuda:1"))
    assert str(caught.value) == (
        "cuda:1 has 0.2 GB free, and a run needs at least 0.5: 79.8 GB of 80.0 GB are taken, by "
        "py\\x1bthon (pid 4121, anna) 74.2 GB, pid 7 5.2 GB. Wait until it is free, or take another card: "
        "--device cuda:N."
    )
    assert caught.value.exit_code == 11


def test_a_budget_has_to_be_free_and_what_is_ours_is(card: Callable[..., None]) -> None:
    runtime = RuntimeConfig(device="cuda:0", vram_budget_gb=6)
    card(5.5, {4121: 74.5})
    with pytest.raises(OutOfMemoryError, match=r"5\.5 GB free, and runtime\.vram_budget_gb is 6\.0: 74"):
        devices.find_device(runtime)
    card(5.5, {4121: 73.5, os.getpid(): 1.0})
    assert devices.find_device(runtime) == torch.device("cuda", 0)


def test_a_budget_of_more_than_the_card_takes_what_is_there(card: Callable[..., None]) -> None:
    card(79.5, {})
    assert devices.find_device(RuntimeConfig(device="cuda:0", vram_budget_gb=100)).index == 0


def test_a_driver_that_does_not_say_who_is_quoted_so(card: Callable[..., None]) -> None:
    card(0.25, {})
    with pytest.raises(OutOfMemoryError, match=r"are taken; the driver does not say by whom"):
        devices.find_device(RuntimeConfig(device="cuda:0"))
    card(0.25, {9: None})
    with pytest.raises(OutOfMemoryError, match=r"are taken, by pid 9\."):
        devices.find_device(RuntimeConfig(device="cuda:0"))


def test_without_a_driver_nobody_is_accused(
    card: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert devices.find_device(RuntimeConfig(device="cuda:0")).index == 0


def place(kind: str) -> Place:
    return Place(torch.device(kind, 0) if kind == "cuda" else torch.device(kind), "fp32", False, None)


def test_what_ended_a_run_for_want_of_memory_says_who_else_is_there(card: Callable[..., None]) -> None:
    card(1.0, {4121: 70.0, os.getpid(): 9.0})
    told = place("cuda").explain(OutOfMemoryError("out of memory on cuda:0 with micro-batch 1."))
    assert str(told).startswith("out of memory on cuda:0 with micro-batch 1. On the card, 70.0 GB of 80.0 GB")
    raw = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    assert str(place("cuda").explain(raw)).startswith(
        "out of memory on cuda:0: CUDA out of memory. Tried to allocate 2.00 GiB. On the card, 70.0 GB"
    )


def test_what_has_other_causes_is_left_as_it_is(card: Callable[..., None]) -> None:
    card(1.0, {4121: 70.0})
    for error in (ValueError("x"), RuntimeError("shape"), ConfigError("y")):
        assert place("cuda").explain(error) is None
    alone = OutOfMemoryError("out of memory on cpu")
    assert place("cpu").explain(alone) is None
    card(79.9, {os.getpid(): 0.05})
    assert place("cuda").explain(alone) is None


# --- generators -----------------------------------------------------------------------------------------


def draws(generators: SeededGenerators) -> tuple[float, ...]:
    noise = torch.rand((), generator=generators.torch)
    return (generators.python.random(), float(generators.numpy.random()), float(noise))


def test_the_same_seed_and_place_give_the_same_draws() -> None:
    assert draws(SeededGenerators(1, 0)) == draws(SeededGenerators(1, 0))


@pytest.mark.parametrize("other", [(2, 0), (1, 1), (0, 2)])
def test_another_seed_or_phase_gives_others(other: tuple[int, int]) -> None:
    ours, theirs = draws(SeededGenerators(1, 0)), draws(SeededGenerators(*other))
    assert all(mine != yours for mine, yours in zip(ours, theirs, strict=True))


def test_a_state_taken_over_goes_on_where_it_was() -> None:
    first = SeededGenerators(3, 1)
    draws(first)
    first.numpy.normal()
    first.python.gauss(0, 1)  # leaves half a pair behind
    state = first.state_dict()
    second = SeededGenerators(99, 0)
    second.load_state_dict(state)
    assert [draws(second), second.python.gauss(0, 1)] == [draws(first), first.python.gauss(0, 1)]


def global_state() -> tuple[bytes, bytes, object]:
    numpy = np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002 - to see that it stays
    return bytes(torch.random.get_rng_state().tolist()), numpy.tobytes(), random.getstate()


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    before = global_state()
    draws(SeededGenerators(1, 0))
    assert global_state() == before
    torch.manual_seed(7)
    assert draws(SeededGenerators(1, 0)) == draws(SeededGenerators(1, 0))
