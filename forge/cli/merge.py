"""`forge merge`: several models of one architecture become one, as a recipe says.

It needs no home, and never imports torch.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from forge import units
from forge.cli.console import put, put_json
from forge.streams import inside
from forge.text import clean


def merge(recipe: Path, output: Path, *, json: bool, quiet: bool) -> int:
    """Merge, and say what came of it; returns the exit code."""
    from forge.merge import load_recipe
    from forge.merge import merge as merge_models

    progress = _Progress(shown=not quiet and not json and sys.stderr.isatty())
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


class _Progress:
    """One line on the terminal, drawn again when its percentage changes."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._stream = inside(sys.stderr)
        self._last = ""

    def show(self, done: int, of: int) -> None:
        """So many elements are merged."""
        text = f"merging {units.percent(done, of)}"
        if self._shown and text != self._last:
            self._last = text
            self._stream.write(f"\r{clean(text)}\x1b[K")
            self._stream.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._last:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
