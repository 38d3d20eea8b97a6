"""Everything that the registry says, read at one moment; and whether the registry itself is whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from forge.audit.findings import Audit, Kind
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import (
    CheckpointRow,
    Connection,
    Error,
    ModelRow,
    SessionRow,
    State,
    TrashRow,
    cleanup,
    fetch,
    open_reader,
    queries,
    schema,
    sqlite,
)
from forge.registry.migrate import inspect
from forge.registry.query import MAX_LIMIT
from forge.retention.tidy import Known, known


@dataclass(frozen=True)
class Records:
    """All rows that speak of files, by session."""

    sessions: tuple[SessionRow, ...]
    trash: Mapping[str, TrashRow]
    checkpoints: Mapping[str, list[CheckpointRow]]
    models: Mapping[str, list[ModelRow]]
    known: Mapping[str, Known]
    missing: Mapping[str, set[str]]
    """What events say is gone."""
    stalled: frozenset[str]
    """Sessions whose disk did not take the log at times; points may be merged there."""

    @property
    def bytes(self) -> int:
        """Size of all checkpoints and models."""
        rows = [row for of in (self.checkpoints, self.models) for some in of.values() for row in some]
        return sum(row.bytes for row in rows)


def check_registry(home: Home, result: Audit) -> Records | None:
    """What the registry says; none where there is no registry, or it cannot be read."""
    if not home.registry.exists():
        return None
    try:
        inspect(home.registry, schema.REGISTRY)
        with closing(open_reader(home.registry)) as connection, sqlite.snapshot(connection):
            problems = sqlite.problems(connection)
            records = _read(connection)
    except (Error, ForgeError) as error:
        problems, records = [str(error)], None
    remedy = (
        f"stop every forge, move {home.registry} away with its -wal and -shm, and put back a "
        f'"{home.registry.name}.v*.backup" if there is one'
    )
    for problem in problems:
        result.add(Kind.REGISTRY, home.registry.name, problem, remedy)
    return records


def _read(connection: Connection) -> Records:
    checkpoints: dict[str, list[CheckpointRow]] = defaultdict(list)
    models: dict[str, list[ModelRow]] = defaultdict(list)
    missing: dict[str, set[str]] = defaultdict(set)
    for row in fetch(connection, queries.checkpoints(None, None)):
        checkpoints[row.session_id].append(row)
    for model in fetch(connection, queries.models(None, MAX_LIMIT)):
        models[model.session_id].append(model)
    for session_id, message in fetch(connection, cleanup.told("missing")):
        missing[session_id].add(message)
    return Records(
        tuple(fetch(connection, queries.sessions(limit=MAX_LIMIT, states=tuple(State)))),
        {row.session_id: row for row in fetch(connection, cleanup.trash())},
        checkpoints,
        models,
        known(partial(fetch, connection)),
        missing,
        frozenset(session_id for session_id, _ in fetch(connection, cleanup.told("stall"))),
    )
