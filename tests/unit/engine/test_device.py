"""Where a session computes: made ready on the CPU here, refused in words where it cannot be."""

from __future__ import annotations

import os
import platform
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forge.config import RuntimeConfig
from forge.engine import device as devices
from forge.engine.device import prepare, processor, usable_cores
from forge.engine.generators import SeededGenerators
from forge.errors import ConfigError


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
