"""Tables of the registry and of a session's metrics file, as migrations.

A migration is never edited once released; a change is a new entry at the end of its tuple.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schema:
    """A kind of database file: what marks it, and the steps from empty to present."""

    title: str
    application_id: int
    migrations: tuple[str, ...]

    @property
    def version(self) -> int:
        """The version that this program writes (`user_version`)."""
        return len(self.migrations)


_REGISTRY_1 = """
CREATE TABLE session (
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, preset TEXT NOT NULL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL, ended_at REAL, phase TEXT, error TEXT,
  note TEXT NOT NULL DEFAULT '', pinned INTEGER NOT NULL DEFAULT 0, lease TEXT, owner TEXT
) STRICT;
CREATE INDEX session_created ON session (created_at);
CREATE INDEX session_state ON session (state);
CREATE TABLE phase_run (
  id INTEGER PRIMARY KEY, session_id TEXT NOT NULL REFERENCES session ON DELETE CASCADE, phase TEXT NOT NULL,
  position INTEGER NOT NULL, state TEXT NOT NULL, total_steps INTEGER NOT NULL, step INTEGER NOT NULL DEFAULT 0,
  started_at REAL, ended_at REAL, report TEXT, UNIQUE (session_id, phase)
) STRICT;
CREATE TABLE model (
  id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES session ON DELETE CASCADE, phase TEXT NOT NULL,
  name TEXT NOT NULL, created_at REAL NOT NULL, parameters INTEGER NOT NULL, bytes INTEGER NOT NULL,
  path TEXT NOT NULL, metrics TEXT NOT NULL
) STRICT;
CREATE INDEX model_session ON model (session_id);
CREATE TABLE model_parent (
  model_id TEXT NOT NULL REFERENCES model ON DELETE CASCADE, parent_id TEXT NOT NULL, weight REAL NOT NULL,
  PRIMARY KEY (model_id, parent_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoint (
  id INTEGER PRIMARY KEY, session_id TEXT NOT NULL REFERENCES session ON DELETE CASCADE, phase TEXT NOT NULL,
  step INTEGER NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL, seconds REAL NOT NULL,
  created_at REAL NOT NULL, UNIQUE (session_id, phase, step)
) STRICT;
CREATE TABLE handoff (
  id INTEGER PRIMARY KEY, session_id TEXT NOT NULL REFERENCES session ON DELETE CASCADE, source TEXT NOT NULL,
  target TEXT NOT NULL, at REAL NOT NULL, passed INTEGER NOT NULL, detail TEXT NOT NULL
) STRICT;
CREATE TABLE event (
  id INTEGER PRIMARY KEY, session_id TEXT NOT NULL REFERENCES session ON DELETE CASCADE, at REAL NOT NULL,
  phase TEXT, step INTEGER, level TEXT NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL
) STRICT;
CREATE INDEX event_session ON event (session_id, id);
CREATE TABLE command (
  id INTEGER PRIMARY KEY, session_id TEXT NOT NULL REFERENCES session ON DELETE CASCADE, lease TEXT NOT NULL,
  kind TEXT NOT NULL, args TEXT NOT NULL, requested_by TEXT NOT NULL, requested_at REAL NOT NULL,
  state TEXT NOT NULL, answered_at REAL, answer TEXT
) STRICT;
CREATE INDEX command_session ON command (session_id, state);
CREATE TABLE audit (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL
) STRICT;
"""

_METRICS_1 = """
CREATE TABLE series (
  id INTEGER PRIMARY KEY, phase TEXT NOT NULL, name TEXT NOT NULL, epoch INTEGER NOT NULL DEFAULT 0,
  UNIQUE (phase, name)
) STRICT;
-- kind: 0 finite, 1 NaN, 2 +infinity, 3 -infinity; SQLite would turn a NaN into NULL and lose the difference.
CREATE TABLE point (
  series_id INTEGER NOT NULL REFERENCES series, step INTEGER NOT NULL, value REAL, kind INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (series_id, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE heartbeat (id INTEGER PRIMARY KEY CHECK (id = 1), beat TEXT NOT NULL) STRICT;
"""

REGISTRY = Schema("registry", 0x464F5247, (_REGISTRY_1,))
METRICS = Schema("metrics", 0x464F524D, (_METRICS_1,))
