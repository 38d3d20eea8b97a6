"""How often the screen looks and draws: as often as its own cost allows.

The screen adds up the processor time of the thread that it lives on, and stretches its interval until that
time stays under a share of one core. Pure: times come in as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

START_SECONDS = 1.0
_RELAX = 0.8
_MEMORY = 0.7


@dataclass(frozen=True)
class Limits:
    """The fastest and slowest refresh, and the share of one core that it may cost."""

    fastest: float
    slowest: float
    share: float


HOSTING = Limits(fastest=0.25, slowest=2.0, share=0.01)
"""While training runs in this process: every millisecond of the screen is one that training waits for."""
ATTACHED = Limits(fastest=0.25, slowest=1.0, share=0.05)
"""While training runs elsewhere, or nowhere."""
LOW_BANDWIDTH = Limits(fastest=2.0, slowest=4.0, share=0.01)


class Pace:
    """The interval between two refreshes, adjusted after each."""

    def __init__(self, limits: Limits = ATTACHED, start: float = START_SECONDS) -> None:
        self._cost: float | None = None
        self._limits = limits
        self.interval = min(max(start, limits.fastest), limits.slowest)

    def limit(self, limits: Limits) -> None:
        """Change the limits, as when a run begins in this process."""
        self._limits = limits
        self.interval = min(max(self.interval, limits.fastest), limits.slowest)

    def observe(self, cpu_seconds: float) -> float:
        """Take in what one refresh cost, rendering included; returns the next interval.

        Slows down at once when too expensive and speeds up little by little, so it does not swing.
        """
        cost = max(0.0, cpu_seconds)
        self._cost = cost if self._cost is None else _MEMORY * self._cost + (1 - _MEMORY) * cost
        wanted = self._cost / self._limits.share
        if wanted < self.interval:
            wanted = max(wanted, self.interval * _RELAX)
        self.interval = min(max(wanted, self._limits.fastest), self._limits.slowest)
        return self.interval
