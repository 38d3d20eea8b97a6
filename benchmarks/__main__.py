"""`python -m benchmarks`: runs the benchmarks, prints their tables, and checks their budgets where asked to.

A benchmark that fails does not stop the others, but the exit code tells: 0 fine, 1 one failed or, with
`--check`, a budget is broken, 2 wrong use.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.table import Row, print_table
from forge.engine.device import processor, usable_cores
from forge.registry import sqlite

NAMES = ("ui_cost", "attach", "registry", "durability", "ste", "grokfast")
"""Modules of this folder with `run(quick) -> rows`; those that another process disturbs most come first."""
DISTRIBUTIONS = ("torch", "textual", "mlflow", "trackio", "wandb", "grokfast-pytorch")


@dataclass(frozen=True)
class Outcome:
    """What became of one benchmark."""

    name: str
    seconds: float
    rows: Sequence[Row]
    error: str | None = None

    @property
    def broken(self) -> list[Row]:
        """Rows over their budget."""
        return [row for row in self.rows if row.ok is False]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    # Ended by a signal, it still ends what it started, some of which stands still and would for ever.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    machine = describe_machine()
    print("\n".join(f"{name:<16} {value}" for name, value in machine.items()))
    _warn_if_busy()
    outcomes = [_measure(name, options.quick) for name in options.names or NAMES]
    if options.json is not None:
        options.json.write_text(json.dumps(_report(machine, outcomes, options.quick), indent=2), "utf-8")
    return _conclude(outcomes, check=options.check)


def describe_machine() -> dict[str, str]:
    """On what the figures were taken."""
    found = {
        "processor": f"{processor()}, {usable_cores()} usable cores",
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": f"{sqlite.VERSION} ({sqlite.LIBRARY})",
    }
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side measurements.")
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"which of {', '.join(NAMES)}; by default all")
    add("--check", action="store_true", help="fail where a budget is broken")
    add("--quick", action="store_true", help="few and short measurements, to see that they work")
    add("--json", metavar="FILE", type=Path, help="write the figures there too")
    return parser


def _measure(name: str, quick: bool) -> Outcome:
    start = time.monotonic()
    rows, error = [], None
    try:
        rows = importlib.import_module(f"benchmarks.{name}").run(quick)
    except Exception as failure:  # noqa: BLE001 - one broken benchmark must not cost the others
        error = f"{type(failure).__name__}: {failure}"
        traceback.print_exc()
    outcome = Outcome(name, time.monotonic() - start, rows, error)
    if rows:
        print_table(f"{name} ({outcome.seconds:.0f} s)", rows)
    return outcome


def _warn_if_busy() -> None:
    """Figures taken beside other work say little; whoever reads them must know."""
    load, cores = os.getloadavg()[0], usable_cores()
    if load > 0.5 * cores:
        print(f"this machine is busy (load {load:.1f} on {cores} cores): the figures suffer", file=sys.stderr)


def _report(machine: dict[str, str], outcomes: Sequence[Outcome], quick: bool) -> dict[str, Any]:
    return {
        "machine": machine,
        "quick": quick,
        "benchmarks": {
            each.name: {
                "seconds": round(each.seconds, 1),
                "error": each.error,
                "rows": [{**asdict(row), "ok": row.ok} for row in each.rows],
            }
            for each in outcomes
        },
    }


def _conclude(outcomes: Sequence[Outcome], *, check: bool) -> int:
    """Say what failed and what is over its budget; returns the exit code."""
    failed = [each for each in outcomes if each.error is not None]
    broken = [(each.name, row) for each in outcomes for row in each.broken]
    for each in failed:
        print(f"{each.name} failed: {each.error}", file=sys.stderr)
    for name, row in broken:
        measured = row.ours if row.ratio is None else row.ratio
        print(f"{name}: {row.name} is {measured:.3g}, its budget {row.budget:g}", file=sys.stderr)
    if not broken and not failed:
        print("every budget is kept")
    return 1 if failed or (check and broken) else 0


if __name__ == "__main__":
    sys.exit(main())
