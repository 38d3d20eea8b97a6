"""What a person who looks elsewhere is called for: the run on the dashboard ended, or stands still by itself.

A stop calls too: whoever asked for it may sit at another terminal. A pause that was asked for calls nobody.
"""

from __future__ import annotations

from forge.registry import LIVE, State
from forge_tui.state import Snapshot

_ENDS = frozenset({State.COMPLETED, State.FAILED, State.STOPPED, State.INTERRUPTED})


def alarm(before: Snapshot, after: Snapshot) -> str | None:
    """Why to call, from one look to the next at the same session; none mostly."""
    old, new = before.session, after.session
    if old is None or new is None or old.id != new.id or old.state not in LIVE:
        return None
    if new.state in _ENDS:
        return f"{new.name} is {new.state}"
    if new.state is not State.PAUSED:
        return None
    seen = before.events[-1].id if before.events else 0
    fresh = (event for event in after.events if event.id > seen)
    return next((event.message for event in fresh if event.kind == "disk" and event.level != "info"), None)
