"""A session's metrics file, written by exactly one thread.

Metrics are many and cheap to lose one second of, so commits are not fsynced, except where a checkpoint
promises its log: then everything before is made durable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from forge.registry.migrate import migrate
from forge.registry.queries import kind_of
from forge.registry.rows import Heartbeat
from forge.registry.schema import METRICS
from forge.registry.sqlite import open_writer, transaction

Record = tuple[str, int, Mapping[str, float]]
_INSERT = "INSERT OR REPLACE INTO point (series_id, step, value, kind) VALUES (?, ?, ?, ?)"
_INF = float("inf")


class MetricsWriter:
    """Appends points, keeps the heartbeat, and rewinds series on resume."""

    def __init__(self, path: Path) -> None:
        self._connection = open_writer(path, synchronous="NORMAL")
        migrate(self._connection, METRICS, path)
        rows = self._connection.execute("SELECT phase, name, id FROM series LIMIT 100000").fetchall()
        self._ids: dict[tuple[str, str], int] = {(phase, name): i for phase, name, i in rows}

    def append(self, records: Sequence[Record]) -> int:
        """Write the points of some steps in one transaction; returns how many."""
        with transaction(self._connection):
            rows: list[tuple[int, int, float | None, int]] = []
            add = rows.append
            ids = self._ids
            for phase, step, values in records:
                for name, raw in values.items():
                    key = (phase, name)
                    series_id = ids.get(key) or self._series_id(key)
                    value = float(raw)
                    if -_INF < value < _INF:
                        add((series_id, step, value, 0))
                    else:
                        add((series_id, step, None, kind_of(value)))
            self._connection.executemany(_INSERT, rows)
        return len(rows)

    def _series_id(self, key: tuple[str, str]) -> int:
        cursor = self._connection.execute("INSERT INTO series (phase, name) VALUES (?, ?)", key)
        self._ids[key] = int(cursor.lastrowid)
        return self._ids[key]

    def heartbeat(self, beat: Heartbeat) -> None:
        """Replace the owner's progress."""
        with transaction(self._connection) as c:
            c.execute("INSERT OR REPLACE INTO heartbeat VALUES (1, ?)", (beat.model_dump_json(),))

    def commit_durably(self) -> None:
        """Return when every point written so far would survive a power cut."""
        self._durable(lambda: self._connection.execute("PRAGMA user_version=" + str(METRICS.version)))

    def last_steps(self, phase: str) -> dict[str, int]:
        """The last step of each series of a phase."""
        rows = self._connection.execute(
            "SELECT s.name, max(p.step) FROM series s JOIN point p ON p.series_id = s.id "
            "WHERE s.phase = ? GROUP BY s.id LIMIT 1000",
            (phase,),
        ).fetchall()
        return dict(rows)

    def rewind(self, phase: str, last_steps: Mapping[str, int]) -> int:
        """Delete points past the given steps, raise the epoch of the phase's series; returns points deleted.

        A series that is not named is emptied: it did not exist at the checkpoint.
        """
        deleted = 0

        def work() -> None:
            nonlocal deleted
            for (owner, name), series_id in self._ids.items():
                if owner == phase:
                    limit = last_steps.get(name, -(2**62))
                    cursor = self._connection.execute(
                        "DELETE FROM point WHERE series_id = ? AND step > ?", (series_id, limit)
                    )
                    deleted += cursor.rowcount
            self._connection.execute("UPDATE series SET epoch = epoch + 1 WHERE phase = ?", (phase,))

        self._durable(work)
        return deleted

    def _durable(self, work: Callable[[], object]) -> None:
        # In WAL mode a FULL commit fsyncs the log, and with it every commit before.
        self._connection.execute("PRAGMA synchronous=FULL")
        try:
            with transaction(self._connection):
                work()
        finally:
            self._connection.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        """Fold the log into the file and close it."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.close()
