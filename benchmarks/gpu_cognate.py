"""What the Cognate architecture costs on a GPU beside a plain decoder, as one JSON.

    python -m benchmarks.gpu_cognate

`mag` pairs one loop of the memory blocks of `25m` with a plain decoder of as many parameters, at the same
1,024 tokens; `depth_2` is the same with a memory of two layers. `preset` is `25m` as it stands.
`optimizers` pairs a whole training step of Muon and Grokfast with one of AdamW, on `25m-plain`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.gpu import Plan, speed, stepper, timed
from forge.config import PipelineConfig, load_config
from forge.config.check import parameter_count
from forge.validate.pairs import compare

LENGTH = 1024
BATCH = 96
"""Smaller ones wait for their launches."""
ONE_LOOP = ["model.recursion=null", f"data.seq_len={LENGTH}", "model.document_end=null"]
MAG_BUDGET = 2.0
"""Plain tokens per second are at most so many times those of the memory blocks."""
STEP_BUDGET = 1.15


def mag(plan: Plan, depth: int = 1) -> dict[str, Any]:
    """Step time of the memory blocks over that of a plain decoder of equal size."""
    ours = load_config("25m", [*ONE_LOOP, f"model.memory.depth={depth}"])
    plain = _plain(parameter_count(ours))
    found = _pair(plan, ours, plain)
    parameters = {"ours": parameter_count(ours), "plain": parameter_count(plain)}
    return {**found, "depth": depth, "parameters": parameters, "within_budget": found["ratio"] <= MAG_BUDGET}


def preset(plan: Plan) -> list[dict[str, Any]]:
    """Tokens per second of `25m` as configured, in its own micro-batches and in one."""
    config = load_config("25m")
    batch, micro = config.pretrain.batch_size, config.pretrain.micro_batch
    return [
        speed(plan, stepper(plan, batch, config=config, micro_batch=size), batch, config, micro_batch=size)
        for size in (micro, batch)
    ]


def optimizers(plan: Plan) -> dict[str, Any]:
    """A whole step with Muon and Grokfast over a whole step with fused AdamW."""
    config = load_config("25m-plain", ["model.qk_norm=true"])
    grokfast = load_config("25m-plain").forging.grokfast
    ours = stepper(plan, 128, "muon", config=config, grokfast=grokfast)
    peer = stepper(plan, 128, "adamw", config=config)
    found = compare(ours, peer, plan.pairs, warmup=3, clock=lambda run: timed(plan, run))
    return {**asdict(found), "within_budget": found.ratio <= STEP_BUDGET}


def _plain(parameters: int) -> PipelineConfig:
    """The plain decoder whose size comes closest: its feed-forward layers are wider."""
    shape = ["model.recursion=null", "model.memory=null", "model.persistent_tokens=0", "model.window=null"]
    shape += [f"data.seq_len={LENGTH}", "model.document_end=null"]
    sizes = range(1024, 4096, 32)
    configs = [load_config("25m", [*shape, "pretrain.qk_clip=null", f"model.d_ff={size}"]) for size in sizes]
    return min(configs, key=lambda config: abs(parameter_count(config) - parameters))


def _pair(plan: Plan, ours: PipelineConfig, peer: PipelineConfig) -> dict[str, Any]:
    first, second = (stepper(plan, BATCH, config=config, qk_clip=None) for config in (ours, peer))
    found = compare(first, second, plan.pairs, warmup=3, clock=lambda run: timed(plan, run))
    tokens = BATCH * LENGTH
    speeds = {"tokens_per_second": tokens / found.ours, "plain_tokens_per_second": tokens / found.peer}
    return {**asdict(found), **speeds}


SECTIONS: dict[str, Callable[[Plan], Any]] = {
    "mag": mag,
    "optimizers": optimizers,
    "preset": preset,
    "depth_2": lambda plan: mag(plan, 2),
}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=480, help="start no measurement after this long")
    arguments = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deadline = time.monotonic() + arguments.seconds
    plan = Plan(torch.device("cuda"), load_config("25m"), (), (), 5, 7, 15, deadline)
    report: dict[str, Any] = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}
    for name in arguments.sections:
        try:
            report[name] = SECTIONS[name](plan) if plan.time_left() else "not measured: out of time"
        except Exception as error:  # noqa: BLE001 - one broken section must not cost the rest
            report[name] = f"failed: {type(error).__name__}: {error}"
        print(json.dumps({name: report[name]}), file=sys.stderr, flush=True)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
