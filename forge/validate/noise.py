"""Other programs' processor time: a measurement that they disturbed is taken again, and it is said.

Everything that this process started counts as its own, and time that a hypervisor took as others'.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

MOST = 0.03
"""Share of the machine that others may have during a measurement."""
TRIES = 3


class Noise:
    """How often measurements were disturbed.

    Args:
        tries: how often one is taken at most.
    """

    def __init__(self, tries: int | None = None) -> None:
        self.tries = tries or TRIES
        self.measured = 0
        self.repeated = 0
        self.disturbed = 0
        """Measurements that were disturbed every time they were taken."""

    def least(self, measure: Callable[[], float]) -> float:
        """What `measure` found when it was disturbed least, at once where that was hardly at all."""
        self.measured += 1
        found: list[tuple[float, float]] = []
        while len(found) < self.tries:
            self.repeated += bool(found)
            start, busy, own = time.perf_counter(), _busy(), _own()
            value = measure()
            theirs = (_busy() - busy) - (_own() - own)
            share = theirs / (time.perf_counter() - start) / (psutil.cpu_count() or 1)
            found.append((share, value))
            if share <= MOST:
                return value
        self.disturbed += 1
        return min(found)[1]

    def sentence(self) -> str:
        """How much of it there was; empty when there was none."""
        if not self.repeated and not self.disturbed:
            return ""
        return (
            f"other programs were busy: {self.repeated} measurements were taken again, "
            f"{self.disturbed} of {self.measured} were disturbed every time"
        )


def _busy() -> float:
    """Processor seconds of the whole machine so far, stolen ones included."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts guests' time within user and nice.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guests)


def _own() -> float:
    """Processor seconds of this process and of those below it, ended ones included."""
    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # ended meanwhile
        total += times.user + times.system + times.children_user + times.children_system
    return total
