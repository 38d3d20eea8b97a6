"""The machine is looked at once a second, with or without a card, and a failing probe ends nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from forge.engine.nvml import Card
from forge.engine.sampler import Sampler
from forge.engine.telemetry import Telemetry
from tests.unit.engine.rig import Clock

GPU = torch.device("cuda", 1)


class NVMLError(Exception):
    """As pynvml's."""


class FakeNvml(ModuleType):
    """A driver with two cards; `broken` names the questions that it does not answer."""

    NVMLError = NVMLError

    def __init__(self, *broken: str) -> None:
        super().__init__("pynvml")
        self.broken = set(broken)
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def answer(*arguments: Any) -> Any:
            if name in self.broken:
                raise NVMLError(f"{name}: Not Supported")
            return getattr(self, f"on_{name}")(*arguments)

        return answer

    def on_nvmlInit(self) -> None:
        return None

    def on_nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"card {index}"

    def on_nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        return "card of torch"

    def on_nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=3_000, total=80_000)

    def on_nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(gpu=97)

    def on_nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(pid=1, usedGpuMemory=1_000),
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=2_000),
        ]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("nvmlInit"))


def test_without_a_card_there_is_the_host(no_card: None) -> None:
    assert Card.open() is None
    values = Sampler(Telemetry()).sample()
    assert set(values) == {"rss_bytes", "ram_used_bytes", "ram_total_bytes", "cpu_percent"}
    assert 1 << 20 < values["rss_bytes"] < values["ram_total_bytes"]


def test_a_card_tells_memory_load_and_what_is_ours(driver: FakeNvml) -> None:
    card = Card.open()
    assert card is not None
    assert card.sample() == {
        "gpu_used_bytes": 3_000.0, "gpu_total_bytes": 80_000.0, "gpu_percent": 97.0,
        "gpu_process_bytes": 2_000.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("question", "missing"),
    [
        ("nvmlDeviceGetMemoryInfo", {"gpu_used_bytes", "gpu_total_bytes"}),
        ("nvmlDeviceGetUtilizationRates", {"gpu_percent"}),
        ("nvmlDeviceGetComputeRunningProcesses", {"gpu_process_bytes"}),
    ],
)
def test_a_question_without_answer_spoils_no_other(
    driver: FakeNvml, question: str, missing: set[str]
) -> None:
    card = Card.open()
    assert card is not None
    whole = set(card.sample())
    driver.broken.add(question)
    assert whole - set(card.sample()) == missing


@pytest.mark.parametrize(
    "processes",
    [[], [SimpleNamespace(pid=1, usedGpuMemory=5)], [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]],
)
def test_a_driver_that_does_not_know_this_process_says_nothing_of_it(
    driver: FakeNvml, monkeypatch: pytest.MonkeyPatch, processes: list[Any]
) -> None:
    monkeypatch.setattr(driver, "on_nvmlDeviceGetComputeRunningProcesses", lambda handle: processes)
    card = Card.open()
    assert card is not None
    assert card.process_bytes() is None


@pytest.mark.parametrize(("uuid", "asked"), [("ab-12", "GPU-ab-12"), ("MIG-9", "MIG-9"), ("GPU-1", "GPU-1")])
def test_the_card_of_torch_is_found_by_its_uuid(
    driver: FakeNvml, monkeypatch: pytest.MonkeyPatch, uuid: str, asked: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid))
    assert Card.open(GPU) is not None
    assert driver.asked == [asked]


def test_a_card_that_torch_cannot_name_is_none(driver: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(device: torch.device) -> Any:
        raise RuntimeError("CUDA error: device lost")

    monkeypatch.setattr(torch.cuda, "get_device_properties", lost)
    assert Card.open(GPU) is None


def test_a_watched_card_adds_the_allocator_and_the_budget(
    driver: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="x"))
    for number, name in enumerate(("memory_allocated", "memory_reserved", "max_memory_allocated"), 1):
        monkeypatch.setattr(torch.cuda, name, lambda device, number=number: number)
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 4321)
    sampler = Sampler(Telemetry())
    sampler.watch(GPU, 6.0)
    values = sampler.sample()
    assert [values[f"torch_{name}_bytes"] for name in ("allocated", "reserved", "peak")] == [1, 2, 3]
    assert values["budget_bytes"] == 6e9
    sampler.reset_peak()
    assert (reset, sampler.peak_bytes) == ([GPU], 4321)


def test_watching_the_cpu_adds_nothing(no_card: None) -> None:
    sampler = Sampler(Telemetry())
    sampler.watch(torch.device("cpu"), 6.0)
    assert "budget_bytes" not in sampler.sample()


def test_the_peak_is_that_of_the_phase(no_card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, resident = Sampler(Telemetry()), [9_000]
    monkeypatch.setattr(
        sampler, "_process", SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=resident[0]))
    )
    sampler.sample()
    sampler.reset_peak()
    for resident[0] in (5_000, 7_000, 6_000):
        sampler.sample()
    assert sampler.peak_bytes == 7_000


def test_samples_go_out_under_their_time_and_a_failing_look_is_skipped(
    no_card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry, looks = Telemetry(), 0
    sampler = Sampler(telemetry, Clock(), period=0.0)

    def sample() -> dict[str, float]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise psutil.AccessDenied
        if looks == 3:
            sampler._stop.set()
        return {"rss_bytes": float(looks)}

    monkeypatch.setattr(sampler, "sample", sample)
    sampler.start()
    sampler._thread.join(30)
    sampler.close()
    assert telemetry.take() == [
        ("system", 1_000_000, {"rss_bytes": 2.0}),
        ("system", 1_000_000, {"rss_bytes": 3.0}),
    ]
    assert sampler.failures == 1


def test_closing_what_never_started_is_no_error(no_card: None) -> None:
    Sampler(Telemetry()).close()
