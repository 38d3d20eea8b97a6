"""Is everything that a home promises true? One function looks at all of it, and changes nothing.

Database files are opened through SQLite alone: another descriptor on one, once closed, would drop the locks
of whoever uses it. Never imports torch.
"""

from __future__ import annotations

import time

from forge.audit.findings import Audit, Finding, Kind, Progress
from forge.audit.folders import check_folders, check_leftovers, check_settings
from forge.audit.records import check_registry
from forge.audit.session import check_session
from forge.home import Home, is_id

__all__ = ["Audit", "Finding", "Kind", "Progress", "audit"]


def audit(home: Home, now: float | None = None, progress: Progress = lambda done, of: None) -> Audit:
    """Compare the registry, the session folders and every hash of a home with each other.

    Live sessions are looked at too; what their owner is just writing is no finding.

    Args:
        home: the home; one without a registry has nothing that could be wrong.
        now: the time; a folder that was made just now may not be recorded yet.
        progress: hears how many bytes of how many are read.
    """
    result = Audit()
    records = check_registry(home, result)
    if records is None:
        return result
    at = time.time() if now is None else now
    check_folders(home, records, at, result)
    check_leftovers(home, at, result)
    check_settings(home, result)
    for session in records.sessions:
        if not is_id(session.id):
            continue  # told with the folders: it can have none
        check_session(home, records, session, result, lambda: progress(result.bytes, records.bytes))
        result.sessions += 1
    return result
