"""The terminal of a process that trains: it is lent, and may stall or go away at any moment.

Nothing that matters waits for a terminal, and nothing is written to one that is gone: whatever a library
still prints goes to the session's log.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterable
from pathlib import Path

OUTPUTS = (1, 2)


def lead(descriptors: Iterable[int], log: Path | None) -> None:
    """Make descriptors end elsewhere, whatever they led to.

    Args:
        descriptors: 1 and 2 are led to the log, all others to where nothing is read or written.
        log: a session's log, to which lines are appended; none, or one that cannot be opened, throws them
            away.
    """
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    sink = nowhere
    if log is not None:
        # The disk may be gone too, and that must not stop the run either.
        with contextlib.suppress(OSError):
            sink = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for descriptor in descriptors:
        os.dup2(
            sink if descriptor in OUTPUTS else nowhere, descriptor, inheritable=descriptor <= max(OUTPUTS)
        )
    for opened in {nowhere, sink}:
        os.close(opened)


def takes_output(descriptor: int, seconds: float = 0.0) -> bool:
    """Whether a terminal takes output now, or within some seconds; one that nobody reads does not."""
    found = _poll(descriptor, select.POLLOUT, seconds)
    return bool(found & select.POLLOUT) and not found & (select.POLLHUP | select.POLLERR)


def write_now(descriptor: int, data: bytes) -> None:
    """Write to a terminal what it takes now, and nothing where it takes nothing; never waits."""
    if not takes_output(descriptor):
        return
    with contextlib.suppress(OSError):
        # Opened anew: there may be less room than that, and others share whether this one blocks.
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        own = os.open(os.ttyname(descriptor), flags)
        try:
            os.write(own, data)
        finally:
            os.close(own)


def is_gone(descriptor: int) -> bool:
    """Whether a terminal was closed at its other end, as its owner may see without a signal."""
    return bool(_poll(descriptor, 0, 0.0) & (select.POLLHUP | select.POLLERR | select.POLLNVAL))


def _poll(descriptor: int, events: int, seconds: float) -> int:
    poll = select.poll()
    poll.register(descriptor, events)
    return next((found for _, found in poll.poll(seconds * 1000)), 0)
