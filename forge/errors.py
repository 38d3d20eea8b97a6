"""Errors a person can act on, each with the exit code that the command line returns.

Every message says what happened, to which session or file, and what to do next: the command line and
the screen print it as it stands, without a traceback.
"""

from __future__ import annotations

from typing import ClassVar


class ForgeError(Exception):
    """Base of every expected failure; `exit_code` is what `forge` and `forge-tui` return."""

    exit_code: ClassVar[int] = 1


class ConfigError(ForgeError):
    """A configuration that cannot be read or contradicts itself; lists every problem with its place."""

    exit_code: ClassVar[int] = 3


class NotFoundError(ForgeError):
    """No such session, model, preset or file."""

    exit_code: ClassVar[int] = 4


class SessionLeasedError(ForgeError):
    """Another process runs this session and holds its lease."""

    exit_code: ClassVar[int] = 5


class HomeError(ForgeError):
    """The home folder cannot be used: not writable, not private, or on a network file system."""

    exit_code: ClassVar[int] = 6


class CorpusError(ForgeError):
    """The training text is missing, empty, binary or too small."""

    exit_code: ClassVar[int] = 7


class CheckpointError(ForgeError):
    """A checkpoint cannot be written, or none that is valid can be found."""

    exit_code: ClassVar[int] = 8


class RegistryError(ForgeError):
    """The registry is damaged, not Forge's, or newer than this program and so read-only."""

    exit_code: ClassVar[int] = 9


class IllegalTransitionError(ForgeError):
    """A session or phase run was asked to go to a state that it cannot reach from where it is."""

    exit_code: ClassVar[int] = 10


class TrainingError(ForgeError):
    """A phase cannot go on: out of memory at micro-batch 1, or diverged too often."""

    exit_code: ClassVar[int] = 11


class OutOfMemoryError(TrainingError):
    """The memory of the device does not suffice; the message says what was tried and what fits."""


class MergeError(ForgeError):
    """Models cannot be merged: they do not fit each other, are damaged, or the result has no place to go."""

    exit_code: ClassVar[int] = 13
