"""What the kernel tells anybody about itself: this boot, and whom its out-of-memory killer has ended.

Only what may be read without being root, and nothing where it may not: a counter that is not there is left
out, never taken for zero.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_KILL = re.compile(rb"^\d+,\d+,(\d+),[^;]*;.*Killed process (\d+)\b")
_RECORD_BYTES = 8192
"""More than any record of the log; one that does not fit is refused by the kernel."""
_MOST_RECORDS = 100_000
_SLACK_SECONDS = 60.0
"""By how much the clock of the kernel's log may have drifted from the monotonic one."""


@dataclass(frozen=True)
class Kernel:
    """Where the kernel says things; tests put files of their own there."""

    proc: Path = Path("/proc")
    cgroups: Path = Path("/sys/fs/cgroup")
    log: Path = Path("/dev/kmsg")

    def boot_id(self) -> str:
        """The id of this boot; "unknown" where there is none."""
        try:
            return (self.proc / "sys/kernel/random/boot_id").read_text("ascii").strip()
        except (OSError, UnicodeError):
            return "unknown"

    def oom_kills(self) -> dict[str, int]:
        """How often the killer has struck, by the file that counts it: this cgroup's, and the machine's."""
        places = [self._of_cgroup(), self.proc / "vmstat"]
        counts = {str(place): _oom_kills(place) for place in places if place is not None}
        return {place: count for place, count in counts.items() if count is not None}

    def oom_kills_since(self, before: Mapping[str, int]) -> tuple[int | None, int | None]:
        """How often it struck since `before` was read: in the cgroup it was read in, and on the machine.

        None stands for a counter that cannot be read now, such as that of a cgroup that is gone.
        """
        machine = str(self.proc / "vmstat")
        # Names from a file are opened only where the kernel's counters are.
        inside = [name for name in before if self._is_counter(Path(name))]
        own = [_rise(Path(name), before[name]) for name in inside]
        known = [rise for rise in own if rise is not None]
        whole = _rise(Path(machine), before[machine]) if machine in before else None
        return (sum(known) if known else None), whole

    def killed(self, pid: int, since: float) -> bool:
        """Whether the kernel's log names this process as a victim, `since` so many seconds after the boot."""
        for record in self._log():
            found = _KILL.match(record)
            # An earlier bearer of the pid may have been a victim too.
            at = None if found is None or int(found[2]) != pid else int(found[1]) / 1e6
            if at is not None and at >= since - _SLACK_SECONDS:
                return True
        return False

    def _of_cgroup(self) -> Path | None:
        """The counter of the memory cgroup of this process, whichever version of cgroups it is."""
        try:
            lines = (self.proc / "self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
        except OSError:
            return None
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = self.cgroups / controllers if controllers else self.cgroups
            # Inside a container the path may be that of the host, while the mount begins at the container.
            for folder in (root / path.lstrip("/"), root):
                for name in ("memory.events.local", "memory.events", "memory.oom_control"):
                    if _oom_kills(folder / name) is not None:
                        return folder / name
        return None

    def _is_counter(self, path: Path) -> bool:
        return path.is_relative_to(self.cgroups) and ".." not in path.parts

    def _log(self) -> Iterator[bytes]:
        """The records of the kernel's log, newest last; none where it may not be read."""
        try:
            descriptor = os.open(self.log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            for _ in range(_MOST_RECORDS):
                try:
                    data = os.read(descriptor, _RECORD_BYTES)
                except BrokenPipeError:
                    continue  # that record was overwritten while we read; the next one is there
                if not data:
                    return
                yield from data.splitlines()
        except OSError:
            return  # BlockingIOError: no more records; anything else: no more to be had
        finally:
            os.close(descriptor)


def _oom_kills(path: Path) -> int | None:
    """The line `oom_kill N`, which /proc/vmstat and both versions of cgroups spell alike."""
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeError):
        return None
    found = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(found[0]) if found and found[0].isdigit() else None


def _rise(path: Path, before: int) -> int | None:
    now = _oom_kills(path)
    return None if now is None else max(0, now - before)
