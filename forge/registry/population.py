"""Members of the population of a phase that evolves: recorded before they are measured, and what was found.

Only whoever holds the session's lease writes here, however many processes measure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from forge.errors import NotFoundError
from forge.registry.queries import columns, reader
from forge.registry.query import MAX_LIMIT, Query, bounded, clean, integer
from forge.registry.rows import IndividualRow, StandingRow
from forge.registry.sqlite import Connection

_SELECT = f"SELECT {columns(IndividualRow)} FROM individual WHERE session_id = ? AND phase = ?"
_read = reader(IndividualRow, "genome", "recipe", "parents", "metrics")
_read_standing = reader(StandingRow, "parents")


def individuals(session_id: str, phase: str, limit: int = MAX_LIMIT) -> Query[IndividualRow]:
    """The population of a phase, in the order in which it was added."""
    return Query(f"{_SELECT} ORDER BY id LIMIT ?", [clean(session_id), clean(phase), bounded(limit)], _read)


def standings(session_id: str, phase: str, limit: int) -> Query[StandingRow]:
    """The individuals of a phase, the fittest first, of equals the one added first; then the unmeasured."""
    sql = """SELECT key, generation, name, kind, coalesce(json_extract(recipe, '$[#-1].merge_method'), ''),
            parents, fitness FROM individual WHERE session_id = ? AND phase = ?
            ORDER BY fitness IS NULL, fitness DESC, id LIMIT ?"""
    return Query(sql, [clean(session_id), clean(phase), bounded(limit)], _read_standing)


def add(
    c: Connection,
    session_id: str,
    phase: str,
    *,
    key: str,
    generation: int,
    name: str,
    kind: str,
    genome: Sequence[float],
    recipe: Sequence[Mapping[str, Any]],
    parents: Sequence[str],
    now: float,
) -> None:
    """Record an individual before it is measured; one that is there stays as it is."""
    c.execute(
        """INSERT OR IGNORE INTO individual
            (session_id, phase, key, generation, name, kind, genome, recipe, parents, metrics, created_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '{}', ?)""",
        [
            clean(session_id),
            clean(phase),
            clean(key),
            integer(generation),
            clean(name),
            clean(kind),
            json.dumps(list(genome), allow_nan=False),
            json.dumps(list(recipe), allow_nan=False),
            json.dumps(list(parents)),
            now,
        ],
    )


def set_fitness(
    c: Connection,
    session_id: str,
    phase: str,
    key: str,
    fitness: float,
    metrics: Mapping[str, float],
    now: float,
) -> None:
    """Record what the measurement of an individual found.

    Raises:
        NotFoundError: it was never added.
    """
    cursor = c.execute(
        """UPDATE individual SET fitness = ?, metrics = ?, measured_at = ?
            WHERE session_id = ? AND phase = ? AND key = ?""",
        [fitness, json.dumps(dict(metrics)), now, clean(session_id), clean(phase), clean(key)],
    )
    if cursor.rowcount != 1:
        raise NotFoundError(f"phase {clean(phase)} has no individual {clean(key)} to give a fitness to.")
