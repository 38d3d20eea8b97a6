"""SQLite in WAL mode: schema, migrations, one writer, async readers. Never imports torch.

SQL lives here and nowhere else; what crosses the boundary are the frozen rows of `forge.registry.rows`.
"""

from forge.registry import edits, queries
from forge.registry.lifecycle import LIVE, RESUMABLE, State, check_transition
from forge.registry.metrics import MetricsWriter, Record
from forge.registry.query import Query, fetch
from forge.registry.readers import Reader
from forge.registry.registry import Registry
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
from forge.registry.sqlite import Error, open_reader

__all__ = [
    "LIVE",
    "RESUMABLE",
    "BucketRow",
    "CheckpointRow",
    "CommandRow",
    "Error",
    "EventRow",
    "Heartbeat",
    "MetricsWriter",
    "ModelRow",
    "PhaseRunRow",
    "PointRow",
    "Query",
    "Reader",
    "Record",
    "Registry",
    "SeriesRow",
    "SessionRow",
    "State",
    "check_transition",
    "edits",
    "fetch",
    "open_reader",
    "queries",
]
