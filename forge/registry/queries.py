"""Every read of the registry and of a metrics file, as bounded queries."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

from forge.registry.lifecycle import RESUMABLE, State
from forge.registry.query import Query
from forge.registry.rows import (
    BucketRow,
    CheckpointRow,
    CommandRow,
    EventRow,
    Heartbeat,
    ModelRow,
    PhaseRunRow,
    PointRow,
    SeriesRow,
    SessionRow,
)

MAX_ROWS = 10_000
SessionOrder = Literal["created", "updated", "name", "state"]
_ORDERS: dict[SessionOrder, str] = {
    "created": "created_at",
    "updated": "updated_at",
    "name": "name COLLATE NOCASE",
    "state": "state",
}

_SESSION = "id, name, state, preset, created_at, updated_at, ended_at, phase, error, note, pinned, lease, owner"
_PHASE = "id, session_id, phase, position, state, total_steps, step, started_at, ended_at, report"
_MODEL = "id, session_id, phase, name, created_at, parameters, bytes, path, metrics"
_CHECKPOINT = "id, session_id, phase, step, path, bytes, seconds, created_at"
_EVENT = "id, session_id, at, phase, step, level, kind, message"
_COMMAND = "id, session_id, lease, kind, args, requested_by, requested_at, state, answered_at, answer"


def _reader(row_type: Any, columns: str, *json_columns: str) -> Any:
    names = columns.split(", ")

    def read(row: Sequence[Any]) -> Any:
        values = dict(zip(names, row, strict=True))
        for name in json_columns:
            if values[name] is not None:
                values[name] = json.loads(values[name])
        return row_type.model_validate(values)

    return read


read_session = _reader(SessionRow, _SESSION)
_read_phase = _reader(PhaseRunRow, _PHASE, "report")
_read_model = _reader(ModelRow, _MODEL, "metrics")
_read_checkpoint = _reader(CheckpointRow, _CHECKPOINT)
_read_event = _reader(EventRow, _EVENT)
read_command = _reader(CommandRow, _COMMAND, "args")


def _where(search: str, states: Collection[State]) -> tuple[str, tuple[Any, ...]]:
    chosen = sorted(states) if states else sorted(set(State) - {State.TRASHED})
    clause = f"state IN ({', '.join('?' * len(chosen))})"
    parameters: tuple[Any, ...] = tuple(map(str, chosen))
    if search:
        pattern = "%" + search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        clause += " AND (name LIKE ? ESCAPE '\\' OR note LIKE ? ESCAPE '\\' OR preset LIKE ? ESCAPE '\\')"
        parameters += (pattern, pattern, pattern)
    return clause, parameters


def sessions(
    *,
    limit: int,
    offset: int = 0,
    search: str = "",
    states: Collection[State] = (),
    order: SessionOrder = "created",
    descending: bool = True,
) -> Query[SessionRow]:
    """One page of sessions; those in the trash only when asked for."""
    clause, parameters = _where(search, states)
    direction = "DESC" if descending else "ASC"
    sql = (
        f"SELECT {_SESSION} FROM session WHERE {clause} ORDER BY {_ORDERS[order]} {direction}, id {direction} "
        "LIMIT ? OFFSET ?"
    )
    return Query(sql, (*parameters, min(limit, MAX_ROWS), offset), read_session)


def count_sessions(search: str = "", states: Collection[State] = ()) -> Query[int]:
    """How many sessions `sessions` would page through."""
    clause, parameters = _where(search, states)
    return Query(f"SELECT count(*) FROM session WHERE {clause} LIMIT 1", parameters, lambda row: int(row[0]))


def session(session_id: str) -> Query[SessionRow]:
    """One session by its id."""
    return Query(f"SELECT {_SESSION} FROM session WHERE id = ? LIMIT 1", (session_id,), read_session)


def find_sessions(text: str) -> Query[SessionRow]:
    """Sessions that a person may mean: exact name or id first, then ids that begin so."""
    prefix = text.upper().replace("\\", "").replace("%", "").replace("_", "")
    sql = (
        f"SELECT {_SESSION} FROM session WHERE name = ?1 OR id = ?1 OR (?2 != '' AND id LIKE ?2 || '%') "
        "ORDER BY name = ?1 DESC, id = ?1 DESC, created_at DESC LIMIT 10"
    )
    return Query(sql, (text, prefix), read_session)


def phase_runs(session_id: str) -> Query[PhaseRunRow]:
    """The phases of a session in pipeline order."""
    sql = f"SELECT {_PHASE} FROM phase_run WHERE session_id = ? ORDER BY position LIMIT 100"
    return Query(sql, (session_id,), _read_phase)


def events_after(session_id: str, after_id: int, limit: int) -> Query[EventRow]:
    """Events newer than one, oldest first."""
    sql = f"SELECT {_EVENT} FROM event WHERE session_id = ? AND id > ? ORDER BY id LIMIT ?"
    return Query(sql, (session_id, after_id, min(limit, MAX_ROWS)), _read_event)


def latest_events(session_id: str, limit: int) -> Query[EventRow]:
    """The newest events, oldest first."""
    sql = (
        f"SELECT * FROM (SELECT {_EVENT} FROM event WHERE session_id = ? ORDER BY id DESC LIMIT ?) ORDER BY id"
    )
    return Query(sql, (session_id, min(limit, MAX_ROWS)), _read_event)


def models(session_id: str | None = None, limit: int = MAX_ROWS) -> Query[ModelRow]:
    """Models of one session, or of all; newest first."""
    sql = f"SELECT {_MODEL} FROM model WHERE ?1 IS NULL OR session_id = ?1 ORDER BY created_at DESC, id DESC LIMIT ?2"
    return Query(sql, (session_id, min(limit, MAX_ROWS)), _read_model)


def model(model_id: str) -> Query[ModelRow]:
    """One model by its id."""
    return Query(f"SELECT {_MODEL} FROM model WHERE id = ? LIMIT 1", (model_id,), _read_model)


def model_parents(model_id: str) -> Query[tuple[str, float]]:
    """Parents of a model with their weights."""
    sql = "SELECT parent_id, weight FROM model_parent WHERE model_id = ? ORDER BY parent_id LIMIT 1000"
    return Query(sql, (model_id,), lambda row: (str(row[0]), float(row[1])))


def checkpoints(session_id: str, phase: str | None = None) -> Query[CheckpointRow]:
    """Checkpoints of a session, oldest first."""
    sql = (
        f"SELECT {_CHECKPOINT} FROM checkpoint WHERE session_id = ?1 AND (?2 IS NULL OR phase = ?2) "
        f"ORDER BY created_at, step LIMIT {MAX_ROWS}"
    )
    return Query(sql, (session_id, phase), _read_checkpoint)


def commands(session_id: str, limit: int) -> Query[CommandRow]:
    """The newest commands first."""
    sql = f"SELECT {_COMMAND} FROM command WHERE session_id = ? ORDER BY id DESC LIMIT ?"
    return Query(sql, (session_id, min(limit, MAX_ROWS)), read_command)


def open_commands(session_id: str) -> Query[CommandRow]:
    """Commands not yet answered, oldest first."""
    sql = (
        f"SELECT {_COMMAND} FROM command WHERE session_id = ? AND state IN ('requested', 'claimed') "
        f"ORDER BY id LIMIT {MAX_ROWS}"
    )
    return Query(sql, (session_id,), read_command)


def command(command_id: int) -> Query[CommandRow]:
    """One command."""
    return Query(f"SELECT {_COMMAND} FROM command WHERE id = ? LIMIT 1", (command_id,), read_command)


def live_sessions() -> Query[SessionRow]:
    """Sessions that the registry believes to be running or paused."""
    return sessions(limit=MAX_ROWS, states=(State.RUNNING, State.PAUSED), order="updated")


def resumable_sessions(limit: int) -> Query[SessionRow]:
    """Sessions that `resume` could go on with, newest first."""
    return sessions(limit=limit, states=RESUMABLE, order="updated")


# --- metrics file -----------------------------------------------------------------------------------

NONFINITE = {1: math.nan, 2: math.inf, 3: -math.inf}


def kind_of(value: float) -> int:
    """How a value is stored: 0 finite, 1 NaN, 2 +infinity, 3 -infinity."""
    if math.isfinite(value):
        return 0
    if math.isnan(value):
        return 1
    return 2 if value > 0 else 3


def series(phase: str | None = None) -> Query[SeriesRow]:
    """The series of a phase, or all, each with its last step."""
    sql = (
        "SELECT id, phase, name, epoch, (SELECT max(step) FROM point WHERE series_id = series.id) "
        "FROM series WHERE ?1 IS NULL OR phase = ?1 ORDER BY id LIMIT 1000"
    )
    return Query(
        sql,
        (phase,),
        lambda r: SeriesRow(id=r[0], phase=r[1], name=r[2], epoch=r[3], last_step=r[4]),
    )


def points_after(series_id: int, after_step: int, limit: int) -> Query[PointRow]:
    """Points newer than a step, oldest first."""
    sql = "SELECT step, value, kind FROM point WHERE series_id = ? AND step > ? ORDER BY step LIMIT ?"
    return Query(
        sql,
        (series_id, after_step, limit),
        lambda r: PointRow.model_construct(step=r[0], value=r[1] if r[2] == 0 else NONFINITE[r[2]]),
    )


def latest_points(phase: str) -> Query[tuple[str, int, float]]:
    """The newest (name, step, value) of every series of a phase."""
    sql = (
        "SELECT s.name, p.step, p.value, p.kind FROM series s JOIN point p ON p.series_id = s.id "
        "AND p.step = (SELECT max(step) FROM point WHERE series_id = s.id) WHERE s.phase = ? ORDER BY s.id LIMIT 1000"
    )
    return Query(sql, (phase,), lambda r: (r[0], r[1], r[2] if r[3] == 0 else NONFINITE[r[3]]))


def buckets(series_id: int, first: int, last: int, n: int) -> Query[BucketRow]:
    """Steps `first … last` of a series in at most `n` buckets of equal width, empty ones left out."""
    width = max(1, -(-(last - first + 1) // n))
    sql = (
        "SELECT min(step), max(step), count(*), min(value), max(value), sum(kind != 0) FROM point "
        "WHERE series_id = ? AND step BETWEEN ? AND ? GROUP BY (step - ?) / ? ORDER BY 1 LIMIT ?"
    )
    outer = (
        f"SELECT b.*, (SELECT value FROM point WHERE series_id = ? AND step = b.[max(step)]) FROM ({sql}) AS b LIMIT ?"
    )
    return Query(
        outer,
        (series_id, series_id, first, last, first, width, n, n),
        lambda r: BucketRow.model_construct(
            first_step=r[0], last_step=r[1], count=r[2], low=r[3], high=r[4], broken=r[5], last=r[6]
        ),
    )


def heartbeat() -> Query[Heartbeat]:
    """The owner's progress."""
    return Query("SELECT beat FROM heartbeat LIMIT 1", (), lambda r: Heartbeat.model_validate_json(r[0]))
