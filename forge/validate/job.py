"""One run of one proof: where it may write, how long it may take, whom it tells, and what became of it.

A proof never touches the user's home: it gets a folder of its own beside it, on the same file system, which
is gone afterwards.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forge.errors import ForgeError
from forge.home import NETWORK_FILESYSTEMS, Home, filesystem_type
from forge.validate.proofs import Proof
from forge.validate.result import Result

PRESET = "25m"
"""What the memory proof runs unless told otherwise: the largest preset with a budget."""
PREFIX = "forge-validate-"

Tell = Callable[[float, str], None]
"""Hears which share is done, between 0 and 1, and what is being done."""


class CannotRunError(ForgeError):
    """This machine, or what is installed on it, cannot run the proof; the message says why."""


@dataclass(frozen=True)
class Job:
    """What a proof is given."""

    folder: Path
    """Its own, empty at the start and removed at the end."""
    quick: bool = False
    preset: str = PRESET
    """A preset, or a configuration file."""
    tell: Tell = lambda share, doing: None


def run(
    proof: Proof, home: Home, *, quick: bool, preset: str = PRESET, tell: Tell = lambda share, doing: None
) -> Result:
    """Run a proof to its end; whatever goes wrong in it becomes its result.

    Args:
        proof: which one.
        home: the user's; only its file system is used.
        quick: take fewer and shorter measurements.
        preset: what the memory proof runs.
        tell: hears how far it is.
    """
    start = time.monotonic()
    try:
        module = proof.module()
        # What is still being written by a program that was killed must not hide the result.
        with tempfile.TemporaryDirectory(
            prefix=PREFIX, dir=place(home), ignore_cleanup_errors=True
        ) as folder:
            figures = module.prove(Job(Path(folder), quick, preset, tell))
    except CannotRunError as error:
        return Result(proof.name, (), time.monotonic() - start, str(error), "cannot-run")
    except Exception as error:  # noqa: BLE001 - whatever breaks in a proof is its result
        reason = f"it broke: {type(error).__name__}: {error}"
        return Result(proof.name, (), time.monotonic() - start, reason, "broke")
    return Result(proof.name, tuple(figures), time.monotonic() - start)


def place(home: Home) -> Path:
    """The folder for the proofs' own folders: beside the home, for its disk is what matters.

    Raises:
        CannotRunError: the home is on a network file system, where Forge keeps no home.
    """
    beside = next(folder for folder in (home.root.parent, *home.root.parents) if folder.exists())
    kind = filesystem_type(beside)
    if kind in NETWORK_FILESYSTEMS:
        raise CannotRunError(
            f"{beside} is on a network file system ({kind}), where Forge keeps no home; name a local one "
            "with --home or FORGE_HOME."
        )
    return beside if os.access(beside, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
