"""The screen's name for `forge.units`: the command line and the screen spell every number the same way."""

from forge.units import (
    ago,
    count,
    date_time,
    duration,
    figure,
    percent,
    since,
    size,
    steps,
    stopwatch,
    time_of_day,
)

__all__ = [
    "ago",
    "count",
    "date_time",
    "duration",
    "figure",
    "percent",
    "since",
    "size",
    "steps",
    "stopwatch",
    "time_of_day",
]
