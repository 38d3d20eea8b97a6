"""Every question asked of the registry and of metrics files, as pure functions that return a bounded `Query`.

Text typed by a person only ever enters as a parameter, with LIKE's wildcards escaped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from typing import Any, Literal, TypeVar

from forge.registry.lifecycle import LIVE, State
from forge.registry.query import MAX_LIMIT, Query, bounded, clean, clean_or_none, integer, like
from forge.registry.rows import (
    BucketRow,
    CheckpointRow,
    CommandRow,
    EventRow,
    GapRow,
    Heartbeat,
    ModelRow,
    PhaseRunRow,
    PointRow,
    Row,
    SeriesRow,
    SessionRow,
)

Order = Literal["created", "updated", "name", "state"]
R = TypeVar("R", bound=Row)

_ORDERS: dict[str, str] = {
    "created": "created_at",
    "updated": "updated_at",
    "name": "name COLLATE NOCASE",
    "state": "state",
}
_FIND_LIMIT = 10
_MAX_BUCKETS = 10_000
# By `kind` of a point; SQLite has no NaN.
_KINDS = (0.0, math.nan, math.inf, -math.inf)


def columns(row: type[Row]) -> str:
    """The SELECT list of a row class: its fields are the columns."""
    return ", ".join(row.model_fields)


def reader(row: type[R], *json_fields: str) -> Callable[[tuple[Any, ...]], R]:
    """How a tuple in the order of `columns` becomes the row; `json_fields` are kept as JSON text."""
    names = tuple(row.model_fields)

    def read(values: tuple[Any, ...]) -> R:
        fields = dict(zip(names, values, strict=True))
        for name in json_fields:
            fields[name] = None if fields[name] is None else json.loads(fields[name])
        return row(**fields)

    return read


_SESSION = f"SELECT {columns(SessionRow)} FROM session"
_EVENT = f"SELECT {columns(EventRow)} FROM event"
_MODEL = f"SELECT {columns(ModelRow)} FROM model"
_COMMAND = f"SELECT {columns(CommandRow)} FROM command"

_read_session = reader(SessionRow)
_read_phase_run = reader(PhaseRunRow, "report")
_read_model = reader(ModelRow, "metrics")
_read_checkpoint = reader(CheckpointRow)
_read_event = reader(EventRow)
_read_command = reader(CommandRow, "args")


def _matching(search: str, states: Collection[State]) -> tuple[str, list[Any]]:
    if states:
        condition = f"state IN ({', '.join('?' * len(states))})"
        params: list[Any] = [str(state) for state in states]
    else:
        condition, params = "state <> ?", [str(State.TRASHED)]
    if search:
        pattern = f"%{like(search)}%"
        found = [f"{field} LIKE ? ESCAPE '\\'" for field in ("id", "name", "preset", "note", "state")]
        found.append(
            "EXISTS (SELECT 1 FROM session_tag WHERE session_id = session.id AND tag LIKE ? ESCAPE '\\')"
        )
        condition += f" AND ({' OR '.join(found)})"
        params += [pattern] * len(found)
    return condition, params


def sessions(
    *,
    limit: int,
    offset: int = 0,
    search: str = "",
    states: Collection[State] = (),
    order: Order = "created",
    descending: bool = True,
) -> Query[SessionRow]:
    """One page of sessions; trashed ones only when `states` asks for them.

    `search` is looked for in id, name, preset, note, state and tags, without regard to case (ASCII).
    """
    condition, params = _matching(search, states)
    direction = "DESC" if descending else "ASC"
    # The id makes the order total, so pages neither repeat nor skip a session.
    sql = (
        f"{_SESSION} WHERE {condition} ORDER BY {_ORDERS[order]} {direction}, id {direction} LIMIT ? OFFSET ?"
    )
    return Query(sql, [*params, bounded(limit), integer(max(offset, 0))], _read_session)


def owned_sessions() -> Query[SessionRow]:
    """Sessions that somebody should be running, newest first: live ones, and those whose lease is taken."""
    states = ", ".join("?" * len(LIVE))
    sql = (
        f"{_SESSION} WHERE lease IS NOT NULL OR state IN ({states}) ORDER BY created_at DESC, id DESC LIMIT ?"
    )
    return Query(sql, [*map(str, LIVE), MAX_LIMIT], _read_session)


def count_sessions(search: str = "", states: Collection[State] = ()) -> Query[int]:
    """How many sessions `sessions` would give without a limit."""
    condition, params = _matching(search, states)
    return Query(f"SELECT count(*) FROM session WHERE {condition} LIMIT 1", params, lambda row: int(row[0]))


def session(session_id: str) -> Query[SessionRow]:
    """One session by its id."""
    return Query(f"{_SESSION} WHERE id = ? LIMIT 1", [clean(session_id)], _read_session)


def find_sessions(text: str) -> Query[SessionRow]:
    """Sessions a person may mean: the one with this id, else this name, else those whose id starts so."""
    sql = f"""{_SESSION} WHERE id = ?1
        OR (name = ?1 AND NOT EXISTS (SELECT 1 FROM session WHERE id = ?1))
        OR (?1 <> '' AND id LIKE ?2 ESCAPE '\\'
            AND NOT EXISTS (SELECT 1 FROM session WHERE id = ?1 OR name = ?1))
        ORDER BY created_at DESC, id DESC LIMIT ?3"""
    return Query(sql, [clean(text), f"{like(text)}%", _FIND_LIMIT], _read_session)


def phase_runs(session_id: str) -> Query[PhaseRunRow]:
    """Attempts at phases in pipeline order, a later attempt after an earlier one."""
    sql = f"SELECT {columns(PhaseRunRow)} FROM phase_run WHERE session_id = ? ORDER BY position, id LIMIT ?"
    return Query(sql, [clean(session_id), MAX_LIMIT], _read_phase_run)


def events_after(session_id: str, after_id: int, limit: int) -> Query[EventRow]:
    """Events newer than one already seen, oldest first."""
    sql = f"{_EVENT} WHERE session_id = ? AND id > ? ORDER BY id LIMIT ?"
    return Query(sql, [clean(session_id), integer(after_id), bounded(limit)], _read_event)


def latest_events(session_id: str, limit: int) -> Query[EventRow]:
    """The newest events, oldest of them first."""
    newest = f"{_EVENT} WHERE session_id = ? ORDER BY id DESC LIMIT ?"
    return Query(f"SELECT * FROM ({newest}) ORDER BY id", [clean(session_id), bounded(limit)], _read_event)


def models(session_id: str | None, limit: int) -> Query[ModelRow]:
    """Models of a session, or of all, newest first."""
    sql = f"{_MODEL} WHERE (?1 IS NULL OR session_id = ?1) ORDER BY created_at DESC, id DESC LIMIT ?2"
    return Query(sql, [None if session_id is None else clean(session_id), bounded(limit)], _read_model)


def model(model_id: str) -> Query[ModelRow]:
    """One model by its id."""
    return Query(f"{_MODEL} WHERE id = ? LIMIT 1", [clean(model_id)], _read_model)


def model_parents(model_id: str) -> Query[tuple[str, float]]:
    """Parent id and weight in the lineage of a model, heaviest first; a parent may be deleted by now."""
    sql = """SELECT parent_id, weight FROM model_parent
        WHERE model_id = ? ORDER BY weight DESC, parent_id LIMIT ?"""
    return Query(sql, [clean(model_id), MAX_LIMIT], lambda row: (str(row[0]), float(row[1])))


def checkpoints(session_id: str | None, phase: str | None) -> Query[CheckpointRow]:
    """Checkpoints of all sessions, of one or of one of its phases, oldest first."""
    sql = f"""SELECT {columns(CheckpointRow)} FROM checkpoint
        WHERE (?1 IS NULL OR session_id = ?1) AND (?2 IS NULL OR phase = ?2)
        ORDER BY created_at, step LIMIT ?3"""
    return Query(sql, [clean_or_none(session_id), clean_or_none(phase), MAX_LIMIT], _read_checkpoint)


def commands(session_id: str, limit: int) -> Query[CommandRow]:
    """Commands to a session, newest first."""
    return Query(f"{_COMMAND} WHERE session_id = ? ORDER BY id DESC LIMIT ?",
                 [clean(session_id), bounded(limit)], _read_command)  # fmt: skip


def open_commands(session_id: str) -> Query[CommandRow]:
    """Commands that wait for an answer, oldest first."""
    sql = f"{_COMMAND} WHERE session_id = ? AND state IN ('requested','claimed') ORDER BY id LIMIT ?"
    return Query(sql, [clean(session_id), MAX_LIMIT], _read_command)


def command(command_id: int) -> Query[CommandRow]:
    """One command by its id."""
    return Query(f"{_COMMAND} WHERE id = ? LIMIT 1", [integer(command_id)], _read_command)


def latest_phase_run(session_id: str, phase: str) -> Query[PhaseRunRow]:
    """The newest attempt at a phase."""
    sql = f"""SELECT {columns(PhaseRunRow)} FROM phase_run
        WHERE session_id = ? AND phase = ? ORDER BY id DESC LIMIT 1"""
    return Query(sql, [clean(session_id), clean(phase)], _read_phase_run)


# --- metrics files ------------------------------------------------------------------------------------


def series(phase: str | None = None) -> Query[SeriesRow]:
    """Series of a phase or of all, with their last step."""
    sql = """SELECT id, phase, name, epoch, (SELECT max(step) FROM point WHERE series_id = series.id)
        FROM series WHERE (?1 IS NULL OR phase = ?1) ORDER BY id LIMIT ?2"""
    return Query(sql, [clean_or_none(phase), MAX_LIMIT], reader(SeriesRow))


def points_after(series_id: int, after_step: int, limit: int) -> Query[PointRow]:
    """Points with a step greater than one already seen, in order of step."""
    sql = "SELECT step, value, kind FROM point WHERE series_id = ? AND step > ? ORDER BY step LIMIT ?"
    return Query(sql, [integer(series_id), integer(after_step), bounded(limit)], _read_point)


def buckets(series_id: int, first: int, last: int, n: int) -> Query[BucketRow]:
    """Steps `first … last` in `n` ranges of equal length; ranges without points are left out.

    `last` of a bucket is its last finite value. Values are scanned once per aggregate, in the order of the
    primary key: GROUP BY over an expression would sort a million rows first, at twice the time.
    """
    params = [integer(series_id), integer(first), integer(last), bounded(n, _MAX_BUCKETS)]
    return Query(_BUCKETS, params, _read_bucket)


def latest_points(phase: str) -> Query[tuple[str, int, float]]:
    """Name, step and value of the newest point of each series of a phase."""
    sql = """SELECT series.name, point.step, point.value, point.kind FROM series
        JOIN point ON point.series_id = series.id
        AND point.step = (SELECT max(step) FROM point WHERE series_id = series.id)
        WHERE series.phase = ? ORDER BY series.id LIMIT ?"""
    return Query(
        sql, [clean(phase), MAX_LIMIT], lambda row: (str(row[0]), int(row[1]), _value(row[2], row[3]))
    )


def gaps(name: str) -> Query[GapRow]:
    """How the steps of one metric follow each other in every phase, and how many points there are."""
    sql = """WITH jump AS (
            SELECT series_id, step, step - lag(step, 1, step - 1) OVER (PARTITION BY series_id ORDER BY step)
            AS width FROM point WHERE series_id IN (SELECT id FROM series WHERE name = ?1)
        ) SELECT phase, count(*), min(step), max(step), min(CASE WHEN width <> 1 THEN step END)
        FROM jump JOIN series ON series.id = series_id GROUP BY series_id ORDER BY series_id LIMIT ?2"""
    return Query(sql, [clean(name), MAX_LIMIT], reader(GapRow))


def count_points() -> Query[int]:
    """How many points a metrics file has."""
    return Query("SELECT count(*) FROM point LIMIT 1", [], lambda row: int(row[0]))


def heartbeat() -> Query[Heartbeat]:
    """The progress of the owner; no row before the first one."""
    return Query(f"SELECT {columns(Heartbeat)} FROM heartbeat LIMIT 1", [], reader(Heartbeat))


_IN_RANGE = "FROM point WHERE series_id = ?1 AND step BETWEEN range.low AND range.high"
_BUCKETS = f"""WITH RECURSIVE range(number, low, high) AS (
    SELECT 0, ?2, ?2 + (?3 - ?2 + 1) / ?4 - 1 WHERE ?4 > 0 AND ?3 >= ?2
    UNION ALL
    SELECT number + 1, high + 1, ?2 + (number + 2) * (?3 - ?2 + 1) / ?4 - 1 FROM range WHERE number + 1 < ?4
), bucket AS MATERIALIZED (
    SELECT
        (SELECT min(step) {_IN_RANGE}) AS first_step,
        (SELECT max(step) {_IN_RANGE}),
        (SELECT count(*) {_IN_RANGE}),
        (SELECT min(value) {_IN_RANGE}),
        (SELECT max(value) {_IN_RANGE}),
        (SELECT value {_IN_RANGE} AND kind = 0 ORDER BY step DESC LIMIT 1),
        (SELECT count(value) {_IN_RANGE})
    FROM range
) SELECT * FROM bucket WHERE first_step IS NOT NULL LIMIT ?4"""


def _value(value: float | None, kind: int) -> float:
    return _KINDS[kind] if value is None else value


def _read_point(row: tuple[Any, ...]) -> PointRow:
    step, value, kind = row
    return PointRow(step=step, value=_value(value, kind))


def _read_bucket(row: tuple[Any, ...]) -> BucketRow:
    first, last, count, low, high, final, finite = row
    return BucketRow(
        first_step=first, last_step=last, count=count, low=low, high=high, last=final, broken=count - finite
    )
