"""The proofs as the Validate screen shows them, as frozen values: what each is doing, and what it found.

No Textual here, and nothing that runs. `forge doctor` is the first entry: it looks, where the others measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from forge.validate import PROOFS, Result

DOCTOR = "doctor"


class Stage(StrEnum):
    """How far one of them is."""

    IDLE = "not run"
    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    CANCELLED = "cancelled"


BUSY = frozenset({Stage.WAITING, Stage.RUNNING, Stage.STOPPING})


@dataclass(frozen=True)
class Fact:
    """One finding of `forge doctor`."""

    what: str
    state: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Trial:
    """One entry of the list."""

    name: str
    claim: str
    control: str = ""
    seconds: float = 0.0
    """About how long it takes."""
    quick_seconds: float = 0.0
    stage: Stage = Stage.IDLE
    share: float = 0.0
    doing: str = ""
    since: float = 0.0
    """When it began, while it runs."""
    quick: bool = False
    """How it was run, or is running."""
    result: Result | None = None
    facts: tuple[Fact, ...] = ()

    def about(self, *, quick: bool) -> float:
        """Seconds that it takes, about."""
        return self.quick_seconds if quick else self.seconds


@dataclass(frozen=True)
class Trials:
    """All of them, and how the next one is run."""

    entries: tuple[Trial, ...]
    quick: bool = True

    @property
    def busy(self) -> bool:
        """Whether one runs or waits."""
        return any(entry.stage in BUSY for entry in self.entries)

    def named(self, name: str) -> Trial:
        """One entry."""
        return next(entry for entry in self.entries if entry.name == name)

    def next(self) -> Trial | None:
        """The first that waits."""
        return next((entry for entry in self.entries if entry.stage is Stage.WAITING), None)

    def change(self, names: Iterable[str], how: Callable[[Trial], Trial]) -> Trials:
        """The same with some entries changed."""
        chosen = set(names)
        entries = tuple(how(entry) if entry.name in chosen else entry for entry in self.entries)
        return replace(self, entries=entries)


def fresh() -> Trials:
    """Nothing has run yet."""
    doctor = Trial(DOCTOR, "what is on this machine, and what to do about what is wrong", "", 8.0, 8.0)
    proofs = (Trial(p.name, p.claim, p.control, p.seconds, p.quick_seconds) for p in PROOFS)
    return Trials((doctor, *proofs))
