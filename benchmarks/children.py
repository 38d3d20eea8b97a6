"""Modules of this folder as processes of their own, wherever the benchmarks were started."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from forge.validate import child

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
"""Where the console scripts lie."""


class Child(child.Child):
    """A child that finds this folder, which is in no package."""

    def __init__(self, module: str, *arguments: str | Path, env: Mapping[str, str] = {}) -> None:
        known = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([str(ROOT), *([known] if known else [])])
        super().__init__(module, *arguments, env={"PYTHONPATH": path, **env})
