"""The tables, as the list of migrations that makes them.

A migration that was released is never edited: a change is a new one at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

APPLICATION_ID = 0x466F7267  # "Forg"
METRICS_APPLICATION_ID = 0x466F724D  # "ForM"


@dataclass(frozen=True)
class Migration:
    """One step of the schema, applied as a whole or not at all."""

    version: int
    name: str
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """What a kind of file must look like."""

    what: str
    """For messages: `registry` or `metrics`."""
    application_id: int
    migrations: tuple[Migration, ...]

    @property
    def version(self) -> int:
        """The version this program writes."""
        return self.migrations[-1].version


_MIGRATION = """CREATE TABLE migration (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at REAL NOT NULL,
    sqlite_version TEXT NOT NULL
) STRICT"""

_STATES = "('created','running','paused','completed','failed','stopped','interrupted','trashed')"

_SESSION = f"""CREATE TABLE session (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN {_STATES}),
    preset TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    ended_at REAL,
    phase TEXT,
    error TEXT,
    note TEXT NOT NULL DEFAULT '',
    pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
    lease TEXT,
    owner TEXT
) STRICT"""

_PHASE_RUN = f"""CREATE TABLE phase_run (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    phase TEXT NOT NULL,
    position INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN {_STATES}),
    total_steps INTEGER NOT NULL,
    step INTEGER NOT NULL DEFAULT 0,
    started_at REAL,
    ended_at REAL,
    report TEXT
) STRICT"""

_MODEL = """CREATE TABLE model (
    id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    phase TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at REAL NOT NULL,
    parameters INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    path TEXT NOT NULL,
    metrics TEXT NOT NULL
) STRICT"""

# The parent is no foreign key: lineage outlives the deletion of an ancestor.
_MODEL_PARENT = """CREATE TABLE model_parent (
    model_id TEXT NOT NULL REFERENCES model(id) ON DELETE CASCADE,
    parent_id TEXT NOT NULL,
    weight REAL NOT NULL,
    PRIMARY KEY (model_id, parent_id)
) STRICT, WITHOUT ROWID"""

_CHECKPOINT = """CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    phase TEXT NOT NULL,
    step INTEGER NOT NULL,
    path TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    seconds REAL NOT NULL,
    created_at REAL NOT NULL,
    UNIQUE (session_id, phase, step)
) STRICT"""

_HANDOFF = """CREATE TABLE handoff (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    from_phase TEXT NOT NULL,
    to_phase TEXT NOT NULL,
    at REAL NOT NULL,
    passed INTEGER NOT NULL CHECK (passed IN (0, 1)),
    reasons TEXT NOT NULL,
    overridden_by TEXT
) STRICT"""

_EVENT = """CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    at REAL NOT NULL,
    phase TEXT,
    step INTEGER,
    level TEXT NOT NULL CHECK (level IN ('info','warning','error')),
    kind TEXT NOT NULL,
    message TEXT NOT NULL
) STRICT"""

_COMMAND = """CREATE TABLE command (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    lease TEXT NOT NULL,
    kind TEXT NOT NULL,
    args TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    requested_at REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('requested','claimed','done','refused','void')),
    answered_at REAL,
    answer TEXT
) STRICT"""

# No foreign key: the record of a deletion outlives what was deleted.
_AUDIT = """CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    session_id TEXT,
    path TEXT,
    bytes INTEGER,
    detail TEXT NOT NULL DEFAULT ''
) STRICT"""

_SESSION_TAG = """CREATE TABLE session_tag (
    session_id TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    PRIMARY KEY (session_id, tag)
) STRICT, WITHOUT ROWID"""

# One row for every session in the trash: what undo needs, and how far a purge has come.
_TRASH = """CREATE TABLE trash (
    session_id TEXT PRIMARY KEY REFERENCES session(id) ON DELETE CASCADE,
    state_before TEXT NOT NULL CHECK (state_before IN
        ('created','completed','failed','stopped','interrupted')),
    trashed_at REAL NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    purging INTEGER NOT NULL DEFAULT 0 CHECK (purging IN (0, 1))
) STRICT"""

# The key is a hash of what is measured, so a phase that begins again finds what it has measured already.
_INDIVIDUAL = """CREATE TABLE individual (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE,
    phase TEXT NOT NULL,
    key TEXT NOT NULL,
    generation INTEGER NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    genome TEXT NOT NULL,
    recipe TEXT NOT NULL,
    parents TEXT NOT NULL,
    fitness REAL,
    metrics TEXT NOT NULL,
    created_at REAL NOT NULL,
    measured_at REAL CHECK ((measured_at IS NULL) = (fitness IS NULL)),
    UNIQUE (session_id, phase, key)
) STRICT"""

# The last time that was believed, and the first one since that was not.
_CLOCK = """CREATE TABLE clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seen REAL NOT NULL,
    doubted REAL
) STRICT"""

REGISTRY_SCHEMA: tuple[Migration, ...] = (
    Migration(
        1,
        "sessions, phases, models, checkpoints, events, commands",
        (
            _MIGRATION, _SESSION, _PHASE_RUN, _MODEL, _MODEL_PARENT, _CHECKPOINT, _HANDOFF, _EVENT, _COMMAND,
            _AUDIT, _SESSION_TAG, _TRASH, _INDIVIDUAL, _CLOCK,
            "CREATE INDEX phase_run_session ON phase_run (session_id, position)",
            "CREATE INDEX model_session ON model (session_id, created_at)",
            "CREATE INDEX model_parent_parent ON model_parent (parent_id)",
            "CREATE INDEX handoff_session ON handoff (session_id)",
            "CREATE INDEX event_session ON event (session_id, id)",
            "CREATE INDEX command_session ON command (session_id, id)",
            "CREATE INDEX command_open ON command (session_id) WHERE state IN ('requested','claimed')",
            "CREATE INDEX audit_session ON audit (session_id, id)",
        ),
    ),
)  # fmt: skip

_SERIES = """CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    phase TEXT NOT NULL,
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0,
    UNIQUE (phase, name)
) STRICT"""

# kind: 0 finite, 1 NaN, 2 +infinity, 3 -infinity; SQLite stores NaN as NULL. 22 bytes a point.
_POINT = """CREATE TABLE point (
    series_id INTEGER NOT NULL,
    step INTEGER NOT NULL,
    value REAL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3 AND (kind = 0) = (value IS NOT NULL)),
    PRIMARY KEY (series_id, step)
) STRICT, WITHOUT ROWID"""

_HEARTBEAT = """CREATE TABLE heartbeat (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at REAL NOT NULL,
    phase TEXT NOT NULL,
    step INTEGER NOT NULL,
    total_steps INTEGER NOT NULL,
    steps_per_second REAL NOT NULL,
    tokens_per_second REAL NOT NULL,
    eta_seconds REAL,
    status TEXT NOT NULL,
    coalesced INTEGER NOT NULL
) STRICT"""

# A commit that changes nothing syncs nothing: durable commits count themselves here.
_BARRIER = "CREATE TABLE barrier (id INTEGER PRIMARY KEY CHECK (id = 1), count INTEGER NOT NULL) STRICT"

METRICS_SCHEMA: tuple[Migration, ...] = (
    Migration(
        1,
        "series, points, heartbeat",
        (_MIGRATION, _SERIES, _POINT, _HEARTBEAT, _BARRIER, "INSERT INTO barrier VALUES (1, 0)"),
    ),
)

REGISTRY = Schema("registry", APPLICATION_ID, REGISTRY_SCHEMA)
METRICS = Schema("metrics file", METRICS_APPLICATION_ID, METRICS_SCHEMA)
