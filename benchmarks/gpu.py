"""What the plain 25 M model does on a GPU, as one JSON; needs torch, NumPy, pydantic and PyYAML only.

    python -m benchmarks.gpu                          # an H100 or H200
    python -m benchmarks.gpu --device cpu --smoke     # the same code on sizes a laptop can take

Every figure is of the real `Trainer`: forward, backward, one look at the loss, clipping, optimiser. A section
that fails says so in its place and the others still run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from forge.config import PipelineConfig, load_config
from forge.config.check import parameter_count
from forge.models.decoder import Decoder, body_linears
from forge.optim.muon import Muon
from forge.optim.trainer import Trainer
from forge.quant.linear import to_ternary
from forge.validate.pairs import compare

TARGET_TOKENS_PER_SECOND = 1.7e6
STE_BUDGET = 1.05


@dataclass(frozen=True)
class Plan:
    """Sizes of one invocation."""

    device: torch.device
    config: PipelineConfig
    batches: tuple[int, ...]
    """Sequences in one step, all in one micro-batch."""
    ste_batches: tuple[int, ...]
    block: int
    """Steps timed together."""
    blocks: int
    pairs: int
    deadline: float

    def time_left(self) -> bool:
        """Whether another measurement may start."""
        return time.monotonic() < self.deadline


def throughput(plan: Plan) -> list[dict[str, Any]]:
    """Tokens per second of compiled steps: every batch size with Muon + AdamW, then AdamW alone."""
    return [
        speed(plan, stepper(plan, batch, optimizer), batch, optimizer=optimizer)
        for optimizer in ("muon", "adamw")
        for batch in plan.batches
        if plan.time_left()
    ]


def eager(plan: Plan) -> dict[str, Any]:
    """Tokens per second without compilation, to be held against the same batch in `throughput`."""
    return speed(plan, stepper(plan, plan.batches[0], compiled=False), plan.batches[0], compiled=False)


def deterministic(plan: Plan) -> dict[str, Any]:
    """Tokens per second with deterministic algorithms, the default of `runtime.deterministic`."""
    torch.use_deterministic_algorithms(True)
    try:
        return speed(plan, stepper(plan, plan.batches[0]), plan.batches[0], deterministic=True)
    finally:
        torch.use_deterministic_algorithms(False)


def ste(plan: Plan) -> list[dict[str, Any]]:
    """Compiled steps with the estimator against compiled steps without, interleaved."""
    rows = []
    for batch in plan.ste_batches:
        if not plan.time_left():
            break
        ternary, plain = stepper(plan, batch, ternary=True), stepper(plan, batch)
        found = compare(ternary, plain, plan.pairs, warmup=3, clock=lambda run: timed(plan, run))
        rows.append({"batch": batch, **asdict(found), "within_budget": found.ratio <= STE_BUDGET})
    return rows


def optimizer_step(plan: Plan) -> dict[str, float]:
    """Milliseconds of one Muon step over the body: batched (ours) and torch's own loop."""
    return {"batched_ms": _muon_time(plan, Muon), "torch_ms": _muon_time(plan, torch.optim.Muon)}


SECTIONS: dict[str, Callable[[Plan], Any]] = {
    "throughput": throughput,
    "ste": ste,
    "eager": eager,
    "optimizer_step": optimizer_step,
    "deterministic": deterministic,
}


def _model(plan: Plan, config: PipelineConfig | None = None) -> Decoder:
    generator = torch.Generator().manual_seed(0)
    return Decoder((config or plan.config).model).initialise(generator).to(plan.device)


def stepper(
    plan: Plan,
    batch: int,
    optimizer: str = "muon",
    compiled: bool = True,
    ternary: bool = False,
    config: PipelineConfig | None = None,
    **changes: Any,
) -> Callable[[], object]:
    """One whole training step over fixed random text; `changes` are settings of the training."""
    config = config or plan.config
    model = _model(plan, config)
    if ternary:
        to_ternary(model)
    changes = {"optimizer": optimizer, "batch_size": batch, "micro_batch": batch, **changes}
    training = config.pretrain.model_copy(update=changes)
    trainer = Trainer(model, training, plan.device, "bf16", compiled)
    generator = torch.Generator().manual_seed(1)
    size = (batch, config.data.seq_len + 1)
    text = torch.randint(config.model.vocab_size, size, generator=generator).to(plan.device)
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    return lambda: trainer.train_step(training.warmup_steps, inputs, targets)


def _muon_time(plan: Plan, kind: type[torch.optim.Muon]) -> float:
    weights = [layer.weight for layer in body_linears(_model(plan)).values()]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = kind(weights, lr=1e-4)
    return 1e3 * _median_time(plan, lambda: optimizer.step())


def timed(plan: Plan, run: Callable[[], object]) -> float:
    """Seconds per call over one block; on CUDA by events on the device."""
    if plan.device.type != "cuda":
        start = time.perf_counter()
        for _ in range(plan.block):
            run()
        return (time.perf_counter() - start) / plan.block
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(plan.block):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / plan.block


def _median_time(plan: Plan, run: Callable[[], object]) -> float:
    for _ in range(3):
        run()
    return statistics.median(timed(plan, run) for _ in range(plan.blocks))


def speed(
    plan: Plan, run: Callable[[], object], batch: int, config: PipelineConfig | None = None, **what: Any
) -> dict[str, Any]:
    """Tokens per second of `run`, and the most memory it took."""
    config = config or plan.config
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    per_step = _median_time(plan, run)
    model, tokens = config.model, batch * config.data.seq_len
    # 6 per parameter, and the causal half of two attention products: 6 * layers * T * d; of a plain decoder.
    flops = 6 * parameter_count(config) + 6 * model.n_layers * config.data.seq_len * model.d_model
    plain = model.memory is None and model.recursion is None
    peak = torch.cuda.max_memory_allocated() / 1e9 if plan.device.type == "cuda" else None
    found = {
        **what,
        "batch": batch,
        "ms_per_step": per_step * 1e3,
        "tokens_per_second": tokens / per_step,
        "tflops": flops * tokens / per_step / 1e12 if plain else None,
        "peak_gb": peak,
        "first_step_s": first,
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def _plan(arguments: argparse.Namespace) -> Plan:
    device = torch.device(arguments.device)
    deadline = time.monotonic() + arguments.seconds
    if arguments.smoke:
        small = [
            "model.vocab_size=512",
            "model.d_model=64",
            "model.d_ff=128",
            "model.n_layers=1",
            "data.seq_len=64",
        ]
        return Plan(device, load_config("tiny", small), (4,), (4,), 1, 2, 2, deadline)
    config = load_config("25m-plain", ["model.qk_norm=true"])
    return Plan(device, config, tuple(arguments.batches), (128, 32), 5, 7, 15, deadline)


def _run(plan: Plan, sections: list[str]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "cpu",
        "parameters": parameter_count(plan.config),
    }
    for name in sections:
        if not plan.time_left():
            report[name] = "not measured: out of time"
            continue
        try:
            report[name] = SECTIONS[name](plan)
        except Exception as error:  # noqa: BLE001 - lent time is short: one broken section must not cost the rest
            report[name] = f"failed: {type(error).__name__}: {error}"
    speeds = report.get("throughput")
    if isinstance(speeds, list) and speeds:
        best = max(entry["tokens_per_second"] for entry in speeds)
        report["best_tokens_per_second"] = best
        report["meets_target"] = best >= TARGET_TOKENS_PER_SECOND
    return report


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 256, 64], help="sequences in a step")
    parser.add_argument("--seconds", type=float, default=480, help="start no measurement after this long")
    arguments = parser.parse_args()
    # cuBLAS promises the same sums only with a fixed workspace; this is its default size on Hopper.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    print(json.dumps(_run(_plan(arguments), arguments.sections), indent=2))


if __name__ == "__main__":
    main()
