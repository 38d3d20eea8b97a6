"""A program in a pseudo-terminal of 120x40 whose output is read at once, kept with its times, and counted.

It answers what programs ask a terminal at their start, as a real one would: an unanswered question would be
waited for, and that wait is not the program's.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

COLUMNS, ROWS = 120, 40
_ANSWERS = {
    b"\x1b[?2026$p": b"\x1b[?2026;2$y",  # synchronised output is understood
    b"\x1b[6n": b"\x1b[1;1R",
    b"\x1b[c": b"\x1b[?62;c",
    b"\x1b]11;?": b"\x1b]11;rgb:0000/0000/0000\x1b\\",
}
_LONGEST_QUESTION = max(map(len, _ANSWERS))


class Terminal:
    """A child process and the terminal that it draws on."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str] = {}) -> None:
        """Start it; `env` is added to the environment."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env}
        # A child inherits the mask. Textual would start its terminal a second time for a SIGCONT, which is
        # sent to go on with a child that was stopped; stopped is undone by a blocked one too.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})
        try:
            self.started = time.perf_counter()
            self.process = subprocess.Popen(
                command, env=environment, stdin=slave, stdout=slave, stderr=slave,
                start_new_session=True,
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(slave)
        self._master = master
        self._chunks: list[tuple[float, bytes]] = []
        self._news = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._thread.start()

    @property
    def output(self) -> bytes:
        """Everything it has written so far."""
        with self._news:
            return b"".join(data for _, data in self._chunks)

    def wait_for(self, shown: Callable[[bytes], bool], timeout: float = 60.0) -> float:
        """Seconds from the start to the output with which `shown` became true of everything written.

        Raises:
            TimeoutError: it did not, or the program ended before.
        """
        deadline, seen, text = time.perf_counter() + timeout, 0, b""
        with self._news:
            while True:
                for at, data in self._chunks[seen:]:
                    text += data
                    if shown(text):
                        return at - self.started
                seen = len(self._chunks)
                left = deadline - time.perf_counter()
                if left <= 0 or self._closed:
                    what = "ended" if self._closed else f"showed something else for {timeout:g} s"
                    raise TimeoutError(f"{self.process.args!r} {what}: {text[-500:]!r}")
                self._news.wait(left)

    def bytes_since(self, start: float) -> int:
        """How much it has written since a moment of `time.perf_counter`."""
        with self._news:
            return sum(len(data) for at, data in self._chunks if at >= start)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def resident_bytes(self) -> int:
        """Memory of the program and of those that it started."""
        process = psutil.Process(self.process.pid)
        return sum(int(each.memory_info().rss) for each in (process, *process.children(recursive=True)))

    def maps(self, library: str) -> bool | None:
        """Whether a library is mapped into its memory; none where the system does not tell."""
        maps = Path(f"/proc/{self.process.pid}/maps")
        return library in maps.read_text("utf-8", "replace") if maps.exists() else None

    def close(self, patience: float = 20.0) -> None:
        """End it, politely at first."""
        if self.process.poll() is None:
            # The whole group, because a program may only be the start of another. One that is stopped hears
            # of it only when it goes on.
            for number in (signal.SIGTERM, signal.SIGCONT):
                os.killpg(self.process.pid, number)
            try:
                self.process.wait(timeout=patience)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._thread.join(timeout=5)
        os.close(self._master)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        tail = b""
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                data = b""
            now = time.perf_counter()
            with self._news:
                if data:
                    self._chunks.append((now, data))
                else:
                    self._closed = True
                self._news.notify_all()
            if not data:
                return
            window = tail + data
            for question, answer in _ANSWERS.items():
                # Found before only when it lies in the tail as a whole.
                if window.count(question) > tail.count(question):
                    os.write(self._master, answer)
            tail = window[-(_LONGEST_QUESTION - 1) :]
