"""The lease: whoever runs a session holds a `flock` on its `lease` file.

Held is alive and free is dead, whatever clocks, containers or process ids say: the kernel drops the lock
with the process. What is written in the file is for display only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ulid import ULID

from forge.errors import SessionLeasedError

_ATTEMPTS = 5
_RETRY_SECONDS = 0.02


@dataclass(frozen=True)
class LeaseInfo:
    """Who holds a lease, as they wrote it down."""

    token: str
    pid: int
    host: str
    boot_id: str
    since: float

    @property
    def owner(self) -> str:
        """For display: `pid 4121 on gpu-box`."""
        return f"pid {self.pid} on {self.host}"


class Lease:
    """A held lease; `release` or the end of the process gives it back."""

    def __init__(self, descriptor: int, info: LeaseInfo) -> None:
        self._descriptor = descriptor
        self.info = info

    @classmethod
    def acquire(cls, path: Path, session_name: str) -> Lease:
        """Take the lease of a session.

        Raises:
            SessionLeasedError: somebody else holds it; the message says who and what to do.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # A reader that looks whether we are alive holds the lock for a moment: try again.
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 < _ATTEMPTS:
                    time.sleep(_RETRY_SECONDS)
        else:
            os.close(descriptor)
            raise SessionLeasedError(_busy_message(session_name, read_info(path)))
        info = LeaseInfo(str(ULID()), os.getpid(), socket.gethostname(), boot_id(), time.time())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(info)).encode(), 0)
        return cls(descriptor, info)

    def release(self) -> None:
        """Give the lease back; safe to call twice."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


def is_held(path: Path) -> bool:
    """Whether somebody holds the lease now, this process included."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_info(path: Path) -> LeaseInfo | None:
    """Who wrote the lease file last; none when it is absent or half written."""
    try:
        return LeaseInfo(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def boot_id() -> str:
    """The kernel's id of this boot; "unknown" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"


def _busy_message(name: str, info: LeaseInfo | None) -> str:
    if info is None:
        return f'{name} is run by another process; attach with "forge-tui {name}".'
    since = time.strftime("%H:%M", time.localtime(info.since))
    return (
        f"{name} is running in pid {info.pid} on {info.host} since {since}; "
        f'attach with "forge-tui {name}" or stop it with "forge stop {name}".'
    )
