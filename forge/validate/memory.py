"""Proof of the GPU memory budget: a real session of the preset, counted by the driver, context and all.

The session runs twice: under its own budget, and under one that is too small for its micro-batch, which has
to show as smaller micro-batches and never as a broken budget. Then that budget is broken on purpose, behind
the allocator's back: a watch that does not see it has proved nothing before.
"""

from __future__ import annotations

import json
import math
import subprocess
from typing import Any

from forge.config import load_config
from forge.engine.nvml import Card
from forge.validate.child import program
from forge.validate.job import CannotRunError, Job
from forge.validate.result import Figure

SMALL = 0.6
"""Of what it takes when it may: what is left has no room for its micro-batch."""
_RUN = "import runpy; runpy.run_module('forge.validate.budget', run_name='__main__', alter_sys=True)"


def prove(job: Job) -> list[Figure]:
    """The peak under the preset's budget and under a small one."""
    budget = load_config(job.preset).runtime.vram_budget_gb
    if budget is None:
        raise CannotRunError(
            f"{job.preset} has no GPU memory budget (runtime.vram_budget_gb); name a preset that has one "
            "with --preset, such as 25m."
        )
    if Card.open() is None:
        raise CannotRunError(
            "there is no NVIDIA GPU here, and the budget is one of GPU memory; on a CPU nothing is capped."
        )
    job.tell(0.0, f"a session of {job.preset} under its {budget:g} GB")
    own = _session(job, "own", budget)
    small = round(max(SMALL * own["peak_gb"], 0.1), 2)
    job.tell(0.5, f"the same under {small:g} GB")
    less = _session(job, "small", small)
    return [
        Figure(f"peak of {job.preset} on the GPU", own["peak_gb"], "GB", "<=", budget),
        Figure("of that the CUDA context and the like", own["context_gb"], "GB", ">", 0.0),
        Figure("peak under the small budget", less["peak_gb"], "GB", "<=", small),
        Figure("micro-batches made smaller there", len(less["out_of_memory"]), "", ">=", 1),
        _control(less["planted_gb"], small),
    ]


def _control(planted_gb: float | None, small: float) -> Figure:
    """The small budget broken on purpose, by as much again: the watch has to see it."""
    doubt = ""
    if planted_gb is None:
        doubt = f"the card has no room for another {small:g} GB: would the watch have seen them?"
    return Figure(
        f"peak with {small:g} GB planted past the cap",
        math.nan if planted_gb is None else planted_gb,
        "GB", ">", small, control=True, doubt=doubt,
    )  # fmt: skip


def _session(job: Job, name: str, budget: float) -> dict[str, Any]:
    """What one session in a fresh process came to."""
    home, how = job.folder / name, "quick" if job.quick else "full"
    command = [*program(_RUN), job.preset, str(home), str(budget), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise RuntimeError(f"the session ended with {process.returncode}: {err.strip()[-1000:]}")
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    if "cannot" in found:
        raise CannotRunError(f"{found['cannot']}; install a torch built for CUDA (pytorch.org).")
    if found["outcome"] != "completed":
        raise RuntimeError(f"under {budget:g} GB the session {found['outcome']}: {found['error']}")
    return found
