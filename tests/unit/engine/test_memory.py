"""Out of memory in a hosted run: the batch stays what it was, each step of it is an event on the chart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from forge.config import PipelineConfig
from forge.engine import Engine
from forge.home import Home
from forge.models.decoder import Decoder
from forge.registry import State
from tests.unit.engine.killing import config, outcome, write_text
from tests.unit.engine.rig import Rig

STEPS = 4


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = Engine(Home(tmp_path / "home"))
    yield opened
    opened.shutdown()


@pytest.fixture
def wanted(tmp_path: Path) -> PipelineConfig:
    """Batches of four, two at a time."""
    return config(write_text(tmp_path / "text"), STEPS)


def with_room_for(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Memory for the gradient of so many sequences at once, of up to 9 tokens where it is for none."""
    real = Decoder.loss

    def loss(model: Decoder, inputs: Tensor, targets: Tensor, **options: Any) -> Tensor:
        if torch.is_grad_enabled() and len(inputs) > most and inputs.shape[1] > 9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real(model, inputs, targets, **options)

    monkeypatch.setattr(Decoder, "loss", loss)


def run(engine: Engine, wanted: PipelineConfig) -> Rig:
    session = engine.create(wanted)
    assert engine.host(session).wait(120)
    return Rig(engine, session)


def places(rig: Rig, kind: str) -> list[tuple[str | None, int | None, str]]:
    """Phase, step and level of every event of a kind: with the first two it stands on the chart."""
    from forge.registry import queries

    rows = rig.registry.fetch(queries.latest_events(rig.session_id, 1000))
    return [(row.phase, row.step, row.level) for row in rows if row.kind == kind]


def test_the_batch_stays_and_so_does_the_result(
    engine: Engine, wanted: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = wanted.model_copy(
        update={
            phase: getattr(wanted, phase).model_copy(update={"micro_batch": 1}) for phase in wanted.phases
        }
    )
    expected = outcome(engine, run(engine, smaller).session_id)
    with_room_for(monkeypatch, 1)
    rig = run(engine, wanted)
    assert outcome(engine, rig.session_id) == expected
    # Forging trains two models, the student and its control.
    assert places(rig, "oom") == [("pretrain", 0, "warning"), *[("forging", 0, "warning")] * 2]
    assert rig.events("oom")[0] == "no memory for micro-batch 2; goes on with 1, the batch stays 4"
    assert [line["kind"] for line in rig.log()].count("oom") == 3


def test_below_one_the_phase_fails_with_what_was_tried_and_what_fits(
    engine: Engine, wanted: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room_for(monkeypatch, 0)
    rig = run(engine, wanted)
    assert rig.session.state is State.FAILED
    assert rig.session.error == (
        "out of memory on cpu with micro-batch 2, 1 of a batch of 4 sequences of 16 tokens. "
        "A sequence of 8 tokens fits: take data.seq_len 8, or a smaller model, or set gradient_checkpointing."
    )
    assert places(rig, "error") == [("pretrain", 0, "error")]
    assert "traceback" not in [line["kind"] for line in rig.log()]


def test_a_device_that_is_full_before_the_first_step_is_no_mistake_of_the_program(
    engine: Engine, wanted: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.\nSee documentation.")

    monkeypatch.setattr(Decoder, "to", full)
    rig = run(engine, wanted)
    assert rig.session.error == "out of memory on cpu: CUDA out of memory. Tried to allocate 2.00 MiB."
    assert "traceback" not in [line["kind"] for line in rig.log()]
