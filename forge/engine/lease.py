"""The lease: whoever runs a session holds a `flock` on its `lease` file.

Held is alive and free is dead, whatever clocks, containers or process ids say: the kernel drops the lock
with the process. What is written in the file is for display, and for telling afterwards how an owner died.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import weakref
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ulid import ULID

from forge import units
from forge.engine.kernel import Kernel
from forge.errors import ForgeError, SessionLeasedError
from forge.reading import read_plain

_ATTEMPTS = 5
_MOST_BYTES = 4096
_RETRY_SECONDS = 0.02
_NO_TIME = 1e11
"""No time since the epoch that a clock shows, nor one since a boot."""


@dataclass(frozen=True)
class LeaseInfo:
    """Who holds a lease, as they wrote it down."""

    token: str
    pid: int
    host: str
    boot_id: str
    since: float
    uptime: float = 0.0
    """`since` on the monotonic clock, which begins with the boot as that of the kernel's log does."""
    oom_kills: dict[str, int] = field(default_factory=dict)
    """How often the kernel's out-of-memory killer had struck at the last look; see `Kernel.oom_kills`."""

    @classmethod
    def of_this_process(cls, kernel: Kernel) -> LeaseInfo:
        """A new lease of this process, from now on."""
        return cls(
            token=str(ULID()),
            pid=os.getpid(),
            host=socket.gethostname(),
            boot_id=kernel.boot_id(),
            since=time.time(),
            uptime=time.monotonic(),
            oom_kills=kernel.oom_kills(),
        )

    @property
    def owner(self) -> str:
        """For display: `pid 4121 on gpu-box`."""
        return f"pid {self.pid} on {self.host}"


class Lease:
    """A held lease; `release` or the end of the process gives it back."""

    def __init__(self, descriptor: int, info: LeaseInfo) -> None:
        self._descriptor = descriptor
        self.info = info
        _held.add(self)

    @classmethod
    def acquire(cls, path: Path, session_name: str) -> Lease:
        """Take the lease of a session.

        Raises:
            SessionLeasedError: somebody else holds it; the message says who and what to do.
            ForgeError: the session's folder is gone, or its disk refuses.
        """
        try:
            descriptor = _lock(path)
            if descriptor is None:
                raise SessionLeasedError(_busy_message(session_name, read_info(path)))
            info = LeaseInfo.of_this_process(Kernel())
            try:
                _write(descriptor, info)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise ForgeError(
                f"the lease of {session_name} cannot be taken: {path}: {error.strerror}. "
                "Nothing was started; put the folder right, then try again."
            ) from error
        return cls(descriptor, info)

    def note_kills(self, kernel: Kernel) -> None:
        """Write down anew how often the out-of-memory killer has struck, so that only later kills count."""
        now = replace(self.info, oom_kills=kernel.oom_kills())
        if self._descriptor < 0 or now == self.info:
            return
        # A disk that refuses leaves an older count, by which less is known of a death and nothing wrong told.
        with contextlib.suppress(OSError):
            _write(self._descriptor, now)
            self.info = now

    def stands(self, path: Path) -> bool:
        """Whether the file that we have locked is still the one that others look at."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat(follow_symlinks=False))
        except FileNotFoundError:
            return False

    def renew(self, path: Path) -> bool:
        """Lock the file anew after somebody has removed it; false where another has it locked by now.

        Raises:
            OSError: the session's folder is gone, or its disk refuses.
        """
        descriptor = _lock(path)
        if descriptor is None:
            return False
        before, self._descriptor = self._descriptor, descriptor
        os.close(before)
        _write(descriptor, self.info)
        return True

    def release(self) -> None:
        """Give the lease back; safe to call twice."""
        if self._descriptor >= 0:
            # Closing the last descriptor drops the lock; a forked child has closed its copy already.
            os.close(self._descriptor)
            self._descriptor = -1
        _held.discard(self)


def read_info(path: Path) -> LeaseInfo | None:
    """Who wrote the lease file last; none when it is absent, half written or not of our making."""
    try:
        info = LeaseInfo(**json.loads(read_plain(path, _MOST_BYTES, follow=False)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return info if _is_sound(info) else None


def _write(descriptor: int, info: LeaseInfo) -> None:
    text = json.dumps(asdict(info)).encode()
    # In this order: truncating first would give back the room that the text then may not find.
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _is_sound(info: LeaseInfo) -> bool:
    """Whether everything has its type: JSON may hold anything, and a time may be beyond all calendars."""
    texts: tuple[object, ...] = (info.token, info.host, info.boot_id)
    times: tuple[object, ...] = (info.since, info.uptime)
    counts: object = info.oom_kills
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(at, (int, float)) and 0 <= at < _NO_TIME for at in times)
        and type(info.pid) is int
        and isinstance(counts, dict)
        and all(type(count) is int for count in counts.values())
    )


def _lock(path: Path) -> int | None:
    """A locked descriptor of the lease file; none when somebody else has it locked."""
    # A reader that looks whether we are alive holds the lock for a moment: try again. The waits are also
    # what gives another taker the time to write down who it is.
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_RETRY_SECONDS)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A lock on a file that was moved to the trash meanwhile keeps nobody out.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            # Held by another, or gone: asked again, up to the last attempt.
            os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        else:
            os.close(descriptor)
    return None


def _busy_message(name: str, info: LeaseInfo | None) -> str:
    if info is None:
        return f'{name} is run by another process; attach with "forge-tui {name}".'
    return (
        f"{name} is running in pid {info.pid} on {info.host} since {units.time_of_day(info.since)[:5]}; "
        f'attach with "forge-tui {name}" or stop it with "forge stop {name}".'
    )


_held: weakref.WeakSet[Lease] = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child would keep the lease alive after its owner's death."""
    for lease in list(_held):
        # Closed, never unlocked: an unlock here would unlock it for the parent too.
        os.close(lease._descriptor)
        lease._descriptor = -1
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
