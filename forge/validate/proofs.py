"""The list of proofs: what each claims, what its control is, and about how long it takes.

Only words stand here, so that the command line and the screen can show them without loading what a proof
needs. The module of a proof has its name and one function, `prove(job)`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from forge.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forge.validate.job import Job
    from forge.validate.result import Figure


class Module(Protocol):
    """What the module of a proof offers."""

    def prove(self, job: Job) -> Sequence[Figure]:
        """Measure; raises `CannotRunError` where this machine cannot."""


@dataclass(frozen=True)
class Proof:
    """One entry of the list."""

    name: str
    claim: str
    """What passes when it is true."""
    control: str
    """What is broken on purpose, and must show."""
    seconds: float
    """About how long it takes on two cores."""
    quick_seconds: float
    """The same with `--quick`."""

    def module(self) -> Module:
        """Import what it needs."""
        return cast("Module", importlib.import_module(f"forge.validate.{self.name}"))


PROOFS: tuple[Proof, ...] = (
    Proof(
        "ste",
        "ternary layers learn through the straight-through estimator, and only through it",
        "without it the gradient is exactly zero, and `grad is not None` does not notice",
        seconds=60,
        quick_seconds=15,
    ),
    Proof(
        "wal",
        "nobody is locked out while a pipeline, readers and writers use one registry, and readers cost it "
        "at most 5 %",
        "a plain BEGIN is locked out; a burnt processor shows as a cost",
        seconds=240,
        quick_seconds=60,
    ),
    Proof(
        "screen",
        "an attached screen takes at most 80 MB, and one that hosts a run costs it at most 2 %",
        "a screen that loads torch is over the limit; a burnt processor shows as a cost",
        seconds=240,
        quick_seconds=75,
    ),
    Proof(
        "memory",
        "the preset stays inside its GPU memory budget, the CUDA context counted",
        "planted past the cap, memory is seen to break the small budget",
        seconds=180,
        quick_seconds=120,
    ),
    Proof(
        "durability",
        "a crash at any moment of a save, a trash or a purge loses nothing that was acknowledged",
        "with an fsync left out, a loss is seen",
        seconds=60,
        quick_seconds=15,
    ),
)


def find(name: str) -> Proof:
    """The proof of a name.

    Raises:
        NotFoundError: there is none.
    """
    for proof in PROOFS:
        if proof.name == name:
            return proof
    known = ", ".join(proof.name for proof in PROOFS)
    raise NotFoundError(f'there is no proof "{name}"; there are {known}.')
