"""What a run came to: the reports of its phases and its models, as a table or for a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forge import units
from forge.cli.console import put, put_table
from forge.registry import PhaseRunRow, queries

if TYPE_CHECKING:
    from forge.engine import Engine

_MODELS = 1000


def put_reports(engine: Engine, session_id: str) -> None:
    """Print the report of every phase that has one, as a person reads it."""
    runs = engine.registry.fetch(queries.phase_runs(session_id))
    for run in runs:
        if run.report:
            put(_head(run, run.report))
            put_table([_row(row) for row in _rows(run.report)], right=(1,))


def answer(engine: Engine, session_id: str) -> dict[str, Any]:
    """The session, its reports and its models, for a program."""
    session = engine.session(session_id)
    runs = engine.registry.fetch(queries.phase_runs(session_id))
    models = engine.registry.fetch(queries.models(session_id, _MODELS))
    root = engine.home.session(session_id).root
    return {
        "session": session.id,
        "name": session.name,
        "state": session.state,
        "error": session.error,
        "reports": {run.phase: run.report for run in runs if run.report},
        "models": [
            {**model.model_dump(exclude={"session_id"}), "path": str(root / model.path)}
            for model in reversed(models)
        ],
    }


def _head(run: PhaseRunRow, report: Mapping[str, Any]) -> str:
    parts = [str(report.get("title") or run.phase)]
    seconds, peak = report.get("seconds"), report.get("peak_memory_bytes")
    if isinstance(seconds, (int, float)):
        parts.append(units.duration(seconds))
    if isinstance(peak, (int, float)) and peak:
        parts.append(f"peak memory {units.size(peak)}")
    return " · ".join(parts)


def _rows(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = report.get("rows")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _row(row: Mapping[str, Any]) -> list[str]:
    value = row.get("value")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text = "not measured" if value is None else units.figure(float(value)) if number else str(value)
    return [f"  {row.get('label') or ''}", text, str(row.get("unit") or ""), str(row.get("note") or "")]
