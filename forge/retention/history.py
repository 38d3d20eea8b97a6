"""What the log of a session tells of its course, for a registry that has lost it.

The line that a phase is completed is written after the registry said so: where the two differ, the registry
is older than the log. A line that cannot be read is passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge.home import SessionPaths
from forge.registry import State

_LONGEST_LINE = 1 << 20
_ENDS = {"completed": State.COMPLETED, "stop": State.STOPPED, "error": State.FAILED}
"""Kinds of lines with which a run ends."""
_BEGINS = frozenset({"phase", "resume"})


@dataclass(frozen=True)
class Report:
    """The line that a phase is completed."""

    at: float
    contents: dict[str, Any] | None
    """What was measured; none where the line does not hold it."""


@dataclass
class History:
    """What a log tells."""

    begun: dict[str, float] = field(default_factory=dict)
    """By phase: when it was begun first."""
    reports: dict[str, Report] = field(default_factory=dict)
    """By phase: that it was completed."""
    end: State | None = None
    """How the last run ended; none where nothing says so."""
    ended_at: float | None = None
    error: str | None = None
    """Why it failed."""


def read(paths: SessionPaths) -> History:
    """Read a session's log, with its older parts."""
    history = History()
    for line in _lines(paths.log):
        _take(history, line)
    return history


def _take(history: History, line: dict[str, Any]) -> None:
    kind, at, phase = line.get("kind"), line.get("at"), line.get("phase")
    if not isinstance(kind, str) or not isinstance(at, (int, float)) or not math.isfinite(at):
        return
    if kind in _ENDS:
        history.end, history.ended_at = _ENDS[kind], at
        history.error = str(line.get("message")) if kind == "error" else None
    elif kind in _BEGINS:
        history.end = history.ended_at = history.error = None
    if not isinstance(phase, str):
        return
    if kind == "phase":
        history.begun.setdefault(phase, at)
    elif kind == "report":
        report = line.get("report")
        history.reports[phase] = Report(at, report if isinstance(report, dict) else None)


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for part in _parts(log):
        with part.open("rb") as file:
            while line := file.readline(_LONGEST_LINE):
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError):
                    continue  # what a library printed, or half a line
                if isinstance(found, dict):
                    yield found


def _parts(log: Path) -> list[Path]:
    """The parts of a log, oldest first: the higher its number the older one is."""
    numbered = {
        int(path.suffix[1:]): path for path in log.parent.glob(f"{log.name}.*") if path.suffix[1:].isdecimal()
    }
    found = [*(numbered[number] for number in sorted(numbered, reverse=True)), log]
    return [path for path in found if path.is_file() and not path.is_symlink()]
