"""Whether the time may be believed: what a home has lived through, against one jump of the clock.

A clock that was set wrong makes everything old in one moment. So a stretch in which the registry heard of
nothing counts only once as much time again has passed under the same clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from forge.registry.sqlite import Connection, one_value

# Between two looks a run tells of its checkpoints, so the longest silence is what counts, not the whole.
_LONGEST_SILENCE = """WITH stamp (at) AS (
        VALUES (?1), (?2) UNION SELECT at FROM event WHERE at > ?1 AND at < ?2
    ), step AS (SELECT at - lag(at) OVER (ORDER BY at) AS length FROM stamp)
    SELECT max(length) FROM step"""


@dataclass(frozen=True)
class Doubt:
    """A time that is not believed."""

    silence: float
    """Seconds in which nothing was heard, if the clock is right."""
    until: float
    """When this clock has gone on for long enough to be believed."""
    news: bool
    """Whether this look is the first to find it."""


def look(c: Connection, now: float, longest: float) -> Doubt | None:
    """Note the time; none where it is believed.

    Args:
        c: inside a transaction.
        now: what the clock says.
        longest: a silence of more seconds may be a jump, and so many are then waited for.
    """
    rows = c.execute("SELECT seen, doubted FROM clock LIMIT 1").fetchall()
    seen, doubted = rows[0] if rows else (now, None)
    if doubted is not None and now < doubted:
        doubted = None  # the clock was set back: whatever it said then, it says no more
    silence = 0.0
    if now - seen > longest and (doubted is None or now - doubted < longest):
        silence = one_value(c, _LONGEST_SILENCE, [seen, now] if doubted is None else [seen, doubted])
    if silence <= longest:
        c.execute("INSERT OR REPLACE INTO clock (id, seen, doubted) VALUES (1, ?, NULL)", [now])
        return None
    since = now if doubted is None else doubted
    c.execute("UPDATE clock SET doubted = ?", [since])
    return Doubt(silence, since + longest, news=doubted is None)
