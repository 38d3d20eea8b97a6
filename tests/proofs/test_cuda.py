"""What only a GPU can show: exact resume there, the memory budget, and training in fp16."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from forge.config import PipelineConfig, load_config
from forge.engine import Engine
from forge.home import Home
from forge.models.decoder import Decoder
from forge.optim.trainer import Trainer
from forge.registry import State, metrics, queries
from forge.registry.query import fetch
from forge.registry.sqlite import open_reader

pytestmark = [
    pytest.mark.proofs,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "runtime.device=cuda", "runtime.checkpoint_every=10", "pretrain.steps=40", "pretrain.warmup_steps=4",
    "pretrain.eval_every=20", "forging.steps=40", "forging.warmup_steps=4", "forging.eval_every=20",
    "forging.lambda_ramp_steps=10",
)  # fmt: skip


def finished(home: Home, config: PipelineConfig, stop_in: str | None) -> tuple[Any, Any]:
    """Weights of the last model and the whole log of a run; stopped once inside a phase, and resumed."""
    engine = Engine(home)
    session = engine.create(config)
    run = engine.host(session)
    if stop_in is not None:
        _stop_inside(engine, home, session, stop_in)
        assert run.wait(120)
        assert engine.session(session).state is State.STOPPED
        run = engine.host(session)
    assert run.wait(400)
    assert engine.session(session).state is State.COMPLETED, engine.session(session).error
    (row,) = [m for m in engine.registry.fetch(queries.models(session, 9)) if m.phase == "forging"]
    from safetensors.torch import load_file

    weights = load_file(home.session(session).root / row.path / "model.safetensors")
    connection = open_reader(home.session(session).metrics)
    log = {
        (series.phase, series.name): [
            (point.step, point.value)
            for point in fetch(connection, metrics.points_after(series.id, -1, 9999))
        ]
        for series in fetch(connection, metrics.series(None))
        if series.phase != "system"
    }
    connection.close()
    engine.shutdown()
    return weights, log


def _stop_inside(engine: Engine, home: Home, session: str, phase: str) -> None:
    path = home.session(session).metrics
    while True:
        if path.exists():
            connection = open_reader(path)
            beats = fetch(connection, metrics.heartbeat())
            connection.close()
            if beats and beats[0].phase == phase and beats[0].step >= 7:
                engine.request(session, "stop")
                return


@pytest.mark.parametrize("stop_in", ["pretrain", "forging"])
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, stop_in: str, compiled: str) -> None:
    config = load_config("tiny", [*SMALL, f"runtime.compile={compiled}"])
    straight = finished(Home(tmp_path / "straight"), config, None)
    resumed = finished(Home(tmp_path / "resumed"), config, stop_in)
    assert straight[1] == resumed[1]
    assert all(torch.equal(tensor, resumed[0][name]) for name, tensor in straight[0].items())


@pytest.mark.parametrize(
    ("preset", "budget", "halves"),
    [("25m", "6", False), ("25m-plain", "6", False), ("25m-plain", "2.2", True), ("tiny", "1", True)],
)
def test_a_budget_is_kept(preset: str, budget: str, halves: bool) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_budget", "--preset", preset, "--one", budget]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{found}")
    assert found["outcome"] == "completed", found
    assert found["kept"]
    assert not found["inexact"]
    assert bool(found["out_of_memory"]) is halves


def test_cards_without_bf16_train_in_fp16() -> None:
    config = load_config("tiny", ["pretrain.warmup_steps=2"])
    device = torch.device("cuda")
    model = Decoder(config.model).initialise(torch.Generator().manual_seed(0)).to(device)
    trainer = Trainer(model, config.pretrain, device, "fp16")
    text = torch.randint(config.model.vocab_size, (16, 129), generator=torch.Generator().manual_seed(1))
    results = [trainer.train_step(step, text[:, :-1], text[:, 1:]) for step in range(30)]
    assert results[-1].loss < 0.8 * results[0].loss
    assert not results[-1].skipped
    assert trainer.state_dict()["scaler"]["scale"] > 1
