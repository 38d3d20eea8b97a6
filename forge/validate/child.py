"""Programs that a proof starts: told what to do in lines and answering in lines, or left to run.

None outlives its parent: a closed stdin means the end, and on Linux the kernel kills what a killed parent
leaves behind, standing still or not. A child that dies is an error where it is asked, with its last words.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

ANSWER_SECONDS = 120.0
CLOSE_SECONDS = 60.0
_BOUND = """
import sys
if sys.platform == "linux":
    import ctypes, os
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != {parent}:
        sys.exit("the program that wanted this one is gone")
"""


def program(code: str) -> list[str]:
    """The command that runs Python code in a process which ends with this one."""
    # -P: whatever lies in the current folder is not imported in the place of an installed package.
    return [sys.executable, "-P", "-c", _BOUND.format(parent=os.getpid()) + code]


class Child:
    """A module run as a program; it says a first line when it is ready."""

    def __init__(self, module: str, *arguments: str | Path, env: Mapping[str, str] = {}) -> None:
        self._name = module
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - read when it has ended
        code = f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        self.process = subprocess.Popen(
            [*program(code), *map(str, arguments)],
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self.first = self._answer()

    def ask(self, line: str) -> str:
        """Tell it something and return its answer.

        Raises:
            RuntimeError: it has ended.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self._answer()

    def close(self) -> None:
        """Let it end, and wait for that.

        Raises:
            RuntimeError: it failed.
        """
        try:
            self.process.communicate(timeout=CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.returncode != 0:
            self._fail()
        self._stderr.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        # It says one line at a time, so nothing can wait unseen in the buffer of this end.
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self._fail()
        return line.strip()

    def _fail(self) -> None:
        self.process.kill()
        code = self.process.wait()
        self._stderr.seek(0)
        raise RuntimeError(f"{self._name} ended with {code}: {self._stderr.read()[-2000:].strip()}")
