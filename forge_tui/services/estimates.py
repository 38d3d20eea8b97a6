"""How long a session would take, measured in earlier ones of the same shape, or not said at all."""

from __future__ import annotations

from collections.abc import Sequence

from forge.config import PipelineConfig, read_frozen
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import Error, PhaseRunRow, State, queries
from forge.registry.query import fetch
from forge.registry.sqlite import open_reader
from forge_tui.draft import comparable

LOOKED_AT = 20


def duration(home: Home, config: PipelineConfig) -> tuple[float, str] | None:
    """Seconds, and the name of the session that they were measured in; blocks on the disk.

    Only a completed session with the same model, batch and device counts, phase by phase.
    """
    if not home.registry.exists():
        return None
    try:
        connection = open_reader(home.registry)
    except (Error, ForgeError):
        return None
    try:
        done = fetch(connection, queries.sessions(limit=LOOKED_AT, states=(State.COMPLETED,)))
        for session in done:
            if not _same_shape(home, session.id, config):
                continue
            seconds = _seconds(fetch(connection, queries.phase_runs(session.id)), config)
            if seconds is not None:
                return seconds, session.name
    except (Error, ForgeError):
        return None
    finally:
        connection.close()
    return None


def _same_shape(home: Home, session_id: str, config: PipelineConfig) -> bool:
    try:
        return comparable(read_frozen(home.session(session_id).config), config)
    except ForgeError:
        return False


def _seconds(runs: Sequence[PhaseRunRow], config: PipelineConfig) -> float | None:
    total = 0.0
    for phase in config.phases:
        run = next((run for run in runs if run.phase == phase), None)
        seconds = (run.report or {}).get("seconds") if run is not None else None
        if run is None or not run.total_steps or not isinstance(seconds, (int, float)):
            return None
        total += seconds / run.total_steps * getattr(config, phase).total_steps
    return total
