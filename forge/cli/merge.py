"""`forge merge`: several models of one architecture become one, as a recipe says.

It needs no home, and never imports torch.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from forge import units
from forge.cli.console import put, put_json
from forge.cli.progress import Percentage


def merge(recipe: Path, output: Path, *, json: bool, quiet: bool) -> int:
    """Merge, and say what came of it; returns the exit code."""
    from forge.merge import load_recipe
    from forge.merge import merge as merge_models

    progress = Percentage("merging", shown=not quiet and not json and sys.stderr.isatty())
    try:
        merged = merge_models(load_recipe(recipe), output, progress.show)
    finally:
        progress.clear()
    if json:
        put_json({**asdict(merged), "path": str(merged.path)})
        return 0
    put(
        f"{merged.path}: {merged.models} models merged by {merged.method}, "
        f"{units.count(merged.parameters)} parameters in {merged.tensors} tensors, "
        f"{units.size(merged.bytes)}, {units.figure(merged.seconds, 3)} s"
    )
    return 0
