"""What merging costs beside mergekit: whole processes over three synthetic models of 135 M parameters.

The models have the shapes of SmolLM-135M in float32, four of them where a method needs a base. mergekit lives
in an environment of its own, because it pins other libraries than Forge:

    python3.11 -m venv PLACE && PLACE/bin/pip install mergekit==0.1.5 torch==2.13.0
    python -m benchmarks.merge --mergekit PLACE/bin/mergekit-yaml
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.children import BIN
from benchmarks.table import Row, figure, print_table, row
from forge.validate.pairs import alternating, summarise

Shapes = dict[str, tuple[int, ...]]
SMOLLM: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
    "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "vocab_size": 49152, "tie_word_embeddings": True, "hidden_act": "silu", "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "initializer_range": 0.02, "torch_dtype": "float32",
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
PEAK = 0.5
"""Largest share of mergekit's peak memory that is allowed."""
BUDGETS = {"linear": 1 / 2.5, "slerp": 1 / 4, "dare_ties": 1 / 4, "ties": 1 / 10}
"""Largest share of mergekit's time that is allowed."""
RECIPES: dict[str, str] = {
    "linear": """
merge_method: linear
models:
  - {model: a, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: 0.3}}
  - {model: c, parameters: {weight: 0.2}}
""",
    "slerp": """
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters: {t: 0.4}
""",
    "dare_ties": """
merge_method: dare_ties
base_model: base
models:
  - {model: a, parameters: {weight: 0.5, density: 0.5}}
  - {model: b, parameters: {weight: 0.3, density: 0.5}}
  - {model: c, parameters: {weight: 0.2, density: 0.5}}
""",
    "ties": """
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: 0.5, density: 0.3}}
  - {model: b, parameters: {weight: 0.3, density: 0.3}}
  - {model: c, parameters: {weight: 0.2, density: 0.3}}
""",
}


@dataclass
class Side:
    """One program: how it is called, and what was measured of it."""

    command: Callable[[str, str], Sequence[str | Path]]
    """Of the recipe's file and the output's name."""
    folder: Path
    name: str
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    """Seconds of all cores, which say more than the clock where others are at work."""
    resident: list[float] = field(default_factory=list)
    """Bytes at the peak, mapped pages of files counted."""
    anonymous: list[float] = field(default_factory=list)
    """Bytes of the largest look at memory of its own."""

    def run(self, recipe: str) -> None:
        """Merge once, as a process of its own."""
        output = self.folder / f"out-{self.name}"
        shutil.rmtree(output, ignore_errors=True)
        log = self.folder / f"{self.name}.log"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        with log.open("wb") as file:
            began, spent = time.perf_counter(), processor_seconds()
            process = subprocess.Popen(
                self.command(recipe, output.name), cwd=self.folder, stdout=file, stderr=file, env=environment
            )
            watch = threading.Thread(target=self._watch, args=(process.pid,))
            watch.start()
            process.wait()
            self.seconds.append(time.perf_counter() - began)
            self.processor.append(processor_seconds() - spent)
        watch.join()
        if process.returncode != 0:
            tail = log.read_text("utf-8", "replace")[-2000:].strip()
            raise RuntimeError(f"{self.name} ended with {process.returncode}: {tail}")

    def _watch(self, pid: int) -> None:
        resident = anonymous = 0
        # The kernel keeps the peak of the one, of the other only looks are had. What `wait` tells would count
        # the memory of this process too, until the child has called exec.
        with contextlib.suppress(OSError):
            while found := memory(Path(f"/proc/{pid}/status").read_text("ascii")):
                resident, anonymous = found["VmHWM"], max(anonymous, found["RssAnon"])
                time.sleep(0.01)
        self.resident.append(float(resident))
        self.anonymous.append(float(anonymous))


def processor_seconds() -> float:
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def memory(status: str) -> dict[str, int]:
    """Bytes by name of a process's `status`; empty for one that has ended."""
    lines = (line.split() for line in status.splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def run(quick: bool, mergekit: Path | None = None, rounds: int = 3) -> list[Row]:
    """Rows for every method; quick takes models of a hundredth of the size, and says so in the names."""
    rows: list[Row] = []
    config = {**SMOLLM, "num_hidden_layers": 3, "hidden_size": 144, "vocab_size": 4096} if quick else SMOLLM
    imports = [import_seconds(Path(sys.executable), "forge.cli.app, forge.merge")]
    if mergekit is not None:
        imports.append(import_seconds(mergekit.with_name("python"), "mergekit.scripts.run_yaml"))
    with tempfile.TemporaryDirectory(prefix="forge-merge-") as name:
        folder = Path(name)
        parameters = make_models(folder, config)
        for method, recipe in RECIPES.items():
            (folder / f"{method}.yaml").write_text(recipe, "utf-8")
            label = f"{method}, {len([m for m in ('a', 'b', 'c') if f'model: {m}' in recipe])} models"
            rows += measure(folder, method, f"{label} of {parameters / 1e6:.3g} M", mergekit, imports, rounds)
    return rows


def measure(
    folder: Path, method: str, label: str, mergekit: Path | None, imports: Sequence[float], rounds: int
) -> list[Row]:
    """Time, peaks and agreement of one recipe."""
    ours = Side(lambda recipe, output: [BIN / "forge", "merge", recipe, "-o", output], folder, "forge")
    if mergekit is None:
        for _ in range(rounds):
            ours.run(f"{method}.yaml")
        return [
            figure(f"{label}: whole process", ours.seconds, "s"),
            figure(f"{label}: processor time", ours.processor, "s"),
            figure(f"{label}: peak resident", ours.resident, "MB", 1e-6),
            figure(f"{label}: peak anonymous", ours.anonymous, "MB", 1e-6),
        ]
    peer = Side(
        lambda recipe, output: [mergekit, recipe, output, "--no-write-model-card", "--no-copy-tokenizer"],
        folder,
        "mergekit",
    )
    alternating([lambda: peer.run(f"{method}.yaml"), lambda: ours.run(f"{method}.yaml")], rounds)
    net = [
        [value - spent for value in side.seconds] for side, spent in zip((ours, peer), imports, strict=True)
    ]
    rows = [
        row(f"{label}: whole process", summarise(ours.seconds, peer.seconds), "s", 1.0, BUDGETS[method]),
        row(f"{label}: processor time", summarise(ours.processor, peer.processor), "s", 1.0),
        row(f"{label}: net of imports", summarise(net[0], net[1]), "s", 1.0),
        row(f"{label}: peak resident", summarise(ours.resident, peer.resident), "MB", 1e-6, PEAK),
        row(f"{label}: peak anonymous", summarise(ours.anonymous, peer.anonymous), "MB", 1e-6, PEAK),
    ]
    if method != "dare_ties":
        # What DARE keeps is drawn at random, and by other generators.
        largest, unequal = differences(folder)
        rows.append(figure(f"{label}: largest difference", [largest], "1e-9", 1e9))
        # For TIES these are equal magnitudes at the edge of the density: docs/merge.md.
        rows.append(figure(f"{label}: entries that differ by over 1e-6", [unequal], "entries"))
    return rows


def import_seconds(python: Path, modules: str) -> float:
    """How long an interpreter takes to import something and end; the median of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([python, "-c", f"import {modules}"], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def differences(folder: Path) -> tuple[float, int]:
    """The largest between the two results, and the number of those over 1e-6."""
    ours, theirs = (load_file(folder / f"out-{name}" / "model.safetensors") for name in ("forge", "mergekit"))
    if ours.keys() != theirs.keys():
        raise RuntimeError(f"the results hold different tensors: {sorted(ours.keys() ^ theirs.keys())[:5]}")
    apart = [np.abs(ours[name] - theirs[name]) for name in ours]
    return max(float(one.max()) for one in apart), sum(int(np.count_nonzero(one > 1e-6)) for one in apart)


def make_models(folder: Path, config: dict[str, Any]) -> int:
    """Write a base and three models that differ from it by small noise; the number of parameters."""
    rng = np.random.default_rng(0)
    base = {name: 0.02 * rng.standard_normal(shape, np.float32) for name, shape in shapes(config).items()}
    for model in ("base", "a", "b", "c"):
        scale = np.float32(0.0 if model == "base" else 0.002)
        tensors = {
            name: value + scale * rng.standard_normal(value.shape, np.float32) for name, value in base.items()
        }
        (folder / model).mkdir()
        save_file(tensors, folder / model / "model.safetensors", metadata={"format": "pt"})
        (folder / model / "config.json").write_text(json.dumps(config), "utf-8")
    return sum(value.size for value in base.values())


def shapes(config: dict[str, Any]) -> Shapes:
    """Names and shapes of a Llama with tied embeddings."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    found: Shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    for layer in range(config["num_hidden_layers"]):
        within = {
            "input_layernorm": (width,), "post_attention_layernorm": (width,),
            "self_attn.q_proj": (width, width), "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width), "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner),
        }  # fmt: skip
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in within.items()}
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure merging beside mergekit")
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml of its environment")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved runs of each (default: 3)")
    parser.add_argument("--quick", action="store_true", help="small models")
    options = parser.parse_args()
    print_table("merge", run(options.quick, options.mergekit, options.rounds))


if __name__ == "__main__":
    main()
