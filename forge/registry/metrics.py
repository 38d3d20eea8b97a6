"""The writer of a session's metrics file.

Rows go in as few, wide statements. Each statement lets go of the interpreter lock, and beside a busy
training thread waits up to 5 ms to have it back: one row a statement (`executemany`) falls from 900,000 to
1,000 points/s there, 8,000 rows a statement to 450,000.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forge.errors import RegistryError
from forge.registry import schema, sqlite
from forge.registry.migrate import ensure
from forge.registry.queries import buckets, columns, heartbeat, points_after, series
from forge.registry.query import MAX_LIMIT, Query, clean, fetch, integer
from forge.registry.rows import Heartbeat
from forge.registry.sqlite import one_value, transaction

__all__ = ["MetricsWriter", "Record", "buckets", "heartbeat", "points_after", "series"]

Record = tuple[str, int, Mapping[str, float]]
"""Phase, step, and the values of that step by metric name."""

WAL_AUTOCHECKPOINT = 4096  # 16 MB: a bulk of points pays for few checkpoints

_NAN, _PLUS, _MINUS = 1, 2, 3
_MAX_STEP = (1 << 63) - 1
_COLUMNS = 4
# Rows a statement: doubling, so that few statements are compiled and kept; 32,000 parameters at most, which
# every SQLite since 3.32 takes.
_SIZES = (*(16 << power for power in range(9)), 8000)
_INSERT = "INSERT OR REPLACE INTO point (series_id, step, value, kind) VALUES "
_STATEMENTS = {size: _INSERT + ",".join(["(?,?,?,?)"] * size) for size in _SIZES}


class MetricsWriter:
    """Writes one metrics file; the thread that opened it is the only one that may use it."""

    def __init__(self, path: Path) -> None:
        """Open the file, and create it where there is none.

        Raises:
            RegistryError: it is damaged, not Forge's, or written by a newer Forge.
        """
        opening = ensure(path, schema.METRICS)
        if opening.read_only:
            raise RegistryError(str(opening.notice))
        self.path = path
        self._connection = sqlite.open_writer(
            path, synchronous="NORMAL", wal_autocheckpoint=WAL_AUTOCHECKPOINT
        )
        self._ids: dict[tuple[str, str], int] = {}

    def append(self, records: Sequence[Record]) -> int:
        """Write records in one transaction; a later value of the same step replaces the earlier one.

        Returns:
            How many points it was given.

        Raises:
            RegistryError: a step that is no 64-bit integer; none of the records is written.
        """
        if not records:
            return 0
        try:
            with transaction(self._connection):
                flat = self._flatten(records)
                self._insert(flat)
        except BaseException:
            # Ids of series that this transaction made are gone with it, also where only its commit failed.
            self._ids.clear()
            raise
        return len(flat) // _COLUMNS

    def heartbeat(self, beat: Heartbeat) -> None:
        """Replace the progress of the owner."""
        values = [
            _finite(beat.at),
            clean(beat.phase),
            integer(beat.step),
            integer(beat.total_steps),
            _finite(beat.steps_per_second),
            _finite(beat.tokens_per_second),
            beat.eta_seconds if beat.eta_seconds is not None and math.isfinite(beat.eta_seconds) else None,
            clean(beat.status),
            integer(beat.coalesced),
        ]
        with transaction(self._connection):
            self._connection.execute(
                f"REPLACE INTO heartbeat (id, {columns(Heartbeat)}) VALUES (1{', ?' * len(values)})",
                values,
            )

    def commit_durably(self) -> None:
        """Return when everything written before this call is on the disk, also after a power cut."""
        self._durably(lambda: None)

    def last_steps(self, phase: str) -> dict[str, int]:
        """The last step of each series of a phase that has points."""
        sql = """SELECT name, (SELECT max(step) FROM point WHERE series_id = series.id) FROM series
            WHERE phase = ? LIMIT ?"""
        rows = fetch(self._connection, Query(sql, [clean(phase), MAX_LIMIT], lambda row: row))
        return {name: step for name, step in rows if step is not None}

    def values(self, phase: str, name: str, steps: Sequence[int]) -> dict[int, float]:
        """The finite values of a series at those of the steps that have one."""
        sql = """SELECT step, value FROM point JOIN series ON series.id = series_id
            WHERE phase = ? AND name = ? AND kind = 0 AND step IN (SELECT value FROM json_each(?)) LIMIT ?"""
        params = [clean(phase), clean(name), json.dumps([integer(step) for step in steps]), MAX_LIMIT]
        return dict(fetch(self._connection, Query(sql, params, lambda row: (row[0], row[1]))))

    def rewind(self, phase: str, last_steps: Mapping[str, int]) -> int:
        """Delete what was logged after a checkpoint, durably; the log goes on from there.

        Args:
            phase: the phase that is set back.
            last_steps: the last step to keep of each series; a series that is not in it is emptied.

        Returns:
            How many points were deleted.
        """
        keep = {clean(name): integer(step) for name, step in last_steps.items()}
        deleted = 0

        def delete() -> None:
            nonlocal deleted
            of_phase = Query("SELECT id, name FROM series WHERE phase = ?", [clean(phase)], lambda row: row)
            for series_id, name in fetch(self._connection, of_phase):
                condition, params = "series_id = ?", [series_id]
                if name in keep:
                    condition, params = "series_id = ? AND step > ?", [series_id, keep[name]]
                deleted += self._connection.execute(f"DELETE FROM point WHERE {condition}", params).rowcount
            self._connection.execute("UPDATE series SET epoch = epoch + 1 WHERE phase = ?", [clean(phase)])

        self._durably(delete)
        return deleted

    def close(self) -> None:
        """Fold the WAL into the file and close it."""
        try:
            sqlite.truncate_wal(self._connection)
        finally:
            self._connection.close()

    def _durably(self, body: Callable[[], None]) -> None:
        self._connection.execute("PRAGMA synchronous=FULL")
        try:
            with transaction(self._connection):
                body()
                # A commit without a change would not sync, and the sync covers all of the WAL before it.
                self._connection.execute("UPDATE barrier SET count = count + 1")
        finally:
            self._connection.execute("PRAGMA synchronous=NORMAL")

    def _flatten(self, records: Sequence[Record]) -> list[Any]:
        """`series, step, value, kind` of every point, one after the other, those of a series together."""
        by_series: dict[tuple[str, str], tuple[int, list[Any]]] = {}
        for phase, step, values in records:
            if not -_MAX_STEP <= step <= _MAX_STEP:
                raise RegistryError(f"step {step} of phase {clean(phase)} does not fit into 64 bits.")
            for name, value in values.items():
                key = (phase, name)
                entry = by_series.get(key)
                if entry is None:
                    entry = by_series[key] = (self._series_id(key), [])
                try:
                    number = float(value)
                except OverflowError:
                    number = math.inf if value > 0 else -math.inf
                if number - number == 0.0:  # the cheapest test that a number is finite
                    entry[1].extend((entry[0], step, number, 0))
                else:
                    kind = _NAN if number != number else _PLUS if number > 0 else _MINUS
                    entry[1].extend((entry[0], step, None, kind))
        flat: list[Any] = []
        for _, points in by_series.values():
            flat += points
        return flat

    def _insert(self, flat: list[Any]) -> None:
        width = _SIZES[-1] * _COLUMNS
        whole = len(flat) - len(flat) % width
        for start in range(0, whole, width):
            self._connection.execute(_STATEMENTS[_SIZES[-1]], flat[start : start + width])
        rest = flat[whole:]
        if rest:
            rows = len(rest) // _COLUMNS
            size = _SIZES[bisect_left(_SIZES, rows)]
            # The last row again and again: replacing it by itself is cheaper than another statement.
            rest += rest[-_COLUMNS:] * (size - rows)
            self._connection.execute(_STATEMENTS[size], rest)

    def _series_id(self, key: tuple[str, str]) -> int:
        known = self._ids.get(key)
        if known is None:
            names = [clean(key[0]), clean(key[1])]
            self._connection.execute("INSERT OR IGNORE INTO series (phase, name) VALUES (?, ?)", names)
            sql = "SELECT id FROM series WHERE phase = ? AND name = ?"
            known = int(one_value(self._connection, sql, names))
            self._ids[key] = known
        return known


def _finite(number: float) -> float:
    # A column of the heartbeat that cannot be NULL must not take the whole heartbeat down.
    return number if math.isfinite(number) else 0.0
