"""A small real session, run in other processes that are killed, and everything it leaves to compare.

Two phases on generated text, with every kind of state that a checkpoint holds: Muon and AdamW, both filters,
a straight-through estimator and its control.
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from forge.config import PipelineConfig
from forge.engine import Engine
from forge.home import Home, SessionPaths
from forge.registry import State, queries
from tests.unit.engine.rig import points

VICTIM = Path(__file__).with_name("victim.py")
ROOT = VICTIM.parents[3]
PHASES = ("pretrain", "forging")
PATIENCE = 300


def write_text(folder: Path, files: int = 30) -> str:
    """Invented prose in a folder; the corpus that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = random.Random(5)
    words = ["forge", "tern", "def", "return", "größe", "x_1", "0.25", "gradient", "  ", "日本"]
    for number in range(files):
        lines = [f"{number}.{i} {' '.join(draws.choices(words, k=9))}\n" for i in range(25)]
        (folder / f"{number}.txt").write_text("".join(lines), encoding="utf-8")
    return f"text:{folder}/*.txt"


def config(corpus: str, steps: int, **model: int) -> PipelineConfig:
    """`steps` of pre-training and as many of forging, a checkpoint every other one."""
    training: dict[str, Any] = {
        "steps": steps, "warmup_steps": 1, "batch_size": 4, "micro_batch": 2, "eval_every": 3,
        "eval_tokens": 128, "report_tokens": 256, "learning_rate": 1e-2,
    }  # fmt: skip
    return PipelineConfig.model_validate(
        {
            "name": "killed",
            "seed": 7,
            "model": {"vocab_size": 300, "d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32,
                      "max_seq_len": 16, **model},
            "data": {"corpus": corpus, "seq_len": 16, "dev_fraction": 0.2, "test_fraction": 0.2},
            "runtime": {"device": "cpu", "threads": 1, "checkpoint_every": 2, "keep_checkpoints": 2},
            "pretrain": {**training, "optimizer": "muon", "grokfast": {"kind": "ma", "window": 3}},
            "forging": {**training, "lambda_ramp_steps": 2, "grokfast": {"kind": "ema", "alpha": 0.9}},
        }
    )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """All that a session is for, bit by bit."""

    weights: dict[str, str]
    """Phase, model and tensor name to the SHA-256 of its bytes."""
    log: dict[str, list[tuple[int, bytes]]]
    """Phase and series to every step with the bytes of its value."""
    figures: dict[str, Any]
    """Phase to its report, without what was measured by a clock."""


def outcome(engine: Engine, session: str) -> Outcome:
    """What a completed session left."""
    row, paths = engine.session(session), engine.home.session(session)
    assert row.state is State.COMPLETED, row.error
    weights, log, figures = {}, {}, {}
    for model in engine.registry.fetch(queries.models(session, 10)):
        for name, tensor in load_file(paths.root / model.path / "model.safetensors").items():
            digest = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
            place = f"{model.phase} {model.name.replace(' ', '-')} {name}"
            weights[f"{place} {tuple(tensor.shape)} {tensor.dtype}"] = digest
    for run in engine.registry.fetch(queries.phase_runs(session)):
        assert run.report is not None
        figures[run.phase] = {
            key: value for key, value in run.report.items() if key not in ("seconds", "peak_memory_bytes")
        }
        for name, series in points(paths.metrics, run.phase).items():
            log[f"{run.phase} {name}"] = [(step, struct.pack("<d", value)) for step, value in series]
    return Outcome(weights, log, figures)


def start(home: Home, session: str, place: str = "", count: int = 0) -> subprocess.Popen[str]:
    """A process that runs the session, once it has said that it is ready."""
    arguments = [place, str(count)] if place else []
    process = subprocess.Popen(
        [sys.executable, str(VICTIM), str(home.root), session, *arguments],
        stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def killed(home: Home, session: str, place: str, count: int) -> bool:
    """Run the session until it kills itself at the place; false when it came to its end before that."""
    process = start(home, session, place, count)
    said, _ = process.communicate(timeout=PATIENCE)
    if process.returncode == -signal.SIGKILL:
        return True
    assert said.startswith("completed"), said
    return False


def kill_from_outside(home: Home, session: str, seconds: float) -> bool:
    """Let the session run for so long, then `kill -9`; false when it came to its end before."""
    process = start(home, session)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    return process.returncode == -signal.SIGKILL


def chosen_seed() -> int:
    """The seed of the moments: `FORGE_KILL_SEED` draws the same again."""
    return int(os.environ.get("FORGE_KILL_SEED", secrets.randbelow(10**9)))


def files(paths: SessionPaths) -> dict[str, int]:
    """What lies in a session's folder and how large it is, under names that do not depend on the session.

    Databases and logs differ from run to run, and are left out.
    """
    found: dict[str, int] = {}
    for path in paths.root.rglob("*"):
        if not path.is_file() or path.name == "lease" or path.name.startswith(("log.jsonl", "metrics.db")):
            continue
        parts = list(path.relative_to(paths.root).parts)
        if parts[0] == "models":
            parts[1] = "a model"
        # Times and ids in a document have no certain length.
        size = 0 if path.suffix == ".json" else path.stat().st_size
        found["/".join(parts)] = found.get("/".join(parts), 0) + size
    return found


def half_written(paths: SessionPaths) -> list[str]:
    """Checkpoints whose writing was cut off."""
    return [entry.name for entry in (paths.root / "checkpoints").glob("*/*.tmp-*")]


def run_to_end(home: Home, session: str, place: str = "", count: int = 0) -> list[str]:
    """Run the session in a process of its own to its end; the lines that it said."""
    process = start(home, session, place, count)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    lines = said.splitlines()
    assert lines[-1].startswith("completed"), said
    return lines


def assert_each_step_once(found: Outcome, steps: int) -> None:
    """Every step of both phases has its loss, and has it once."""
    for phase in PHASES:
        assert [step for step, _ in found.log[f"{phase} loss"]] == list(range(1, steps + 1))
