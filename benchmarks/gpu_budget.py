"""Whether `25m` keeps to a GPU memory budget: a real session through the engine, watched by NVML.

    python -m benchmarks.gpu_budget               # the preset's own 6 GB, then 1.5 GB

Prints one JSON object a budget. A budget that is too small for the micro-batch must show as out-of-memory
events and a completed session, never as a failure; the CUDA context counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from forge.home import Home
from forge.validate.budget import FULL, measure


def main() -> None:
    """One fresh process a budget: the allocator's cap cannot be taken back."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="25m")
    parser.add_argument("--budgets", nargs="+", type=float, default=[6.0, 1.5])
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Home(Path(folder)), arguments.preset, arguments.one, FULL)
        print(json.dumps(found), flush=True)
        return
    for budget in arguments.budgets:
        command = [sys.executable, "-m", "benchmarks.gpu_budget", "--preset", arguments.preset]
        subprocess.run([*command, "--one", str(budget)], check=False)


if __name__ == "__main__":
    main()
