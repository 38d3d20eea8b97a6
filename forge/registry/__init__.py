"""The registry: SQLite behind frozen rows. All SQL of the program lives in this package, and no torch.

What is imported from here is the whole of its surface; a module below it may change at any time.
"""

from forge.registry import cleanup, clock, edits, metrics, population, queries, rows
from forge.registry.hanging import silence, silence_of
from forge.registry.lifecycle import LIVE, RESUMABLE, TRANSITIONS, State, check_transition
from forge.registry.metrics import MetricsWriter, Record
from forge.registry.query import Query, afetch, fetch
from forge.registry.readers import Reader
from forge.registry.registry import Registry
from forge.registry.rows import (
    AuditRow,
    BucketRow,
    CandidateRow,
    CheckpointRow,
    CommandRow,
    CommandState,
    EventRow,
    Heartbeat,
    IndividualRow,
    ModelRow,
    PhaseRunRow,
    PointRow,
    SeriesRow,
    SessionRow,
    StandingRow,
    TrashRow,
)
from forge.registry.sqlite import (
    LIBRARY,
    VERSION,
    WAL_SAFE,
    Connection,
    DatabaseError,
    Error,
    IntegrityError,
    OperationalError,
    connect_reader,
    open_reader,
    open_writer,
)

__all__ = [
    "LIBRARY",
    "LIVE",
    "RESUMABLE",
    "TRANSITIONS",
    "VERSION",
    "WAL_SAFE",
    "AuditRow",
    "BucketRow",
    "CandidateRow",
    "CheckpointRow",
    "CommandRow",
    "CommandState",
    "Connection",
    "DatabaseError",
    "Error",
    "EventRow",
    "Heartbeat",
    "IndividualRow",
    "IntegrityError",
    "MetricsWriter",
    "ModelRow",
    "OperationalError",
    "PhaseRunRow",
    "PointRow",
    "Query",
    "Reader",
    "Record",
    "Registry",
    "SeriesRow",
    "SessionRow",
    "StandingRow",
    "State",
    "TrashRow",
    "afetch",
    "check_transition",
    "cleanup",
    "clock",
    "connect_reader",
    "edits",
    "fetch",
    "metrics",
    "open_reader",
    "open_writer",
    "population",
    "queries",
    "rows",
    "silence",
    "silence_of",
]
