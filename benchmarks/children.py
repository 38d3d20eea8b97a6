"""Modules of this folder as processes of their own, told what to do in lines and answering in lines.

A child that dies is an error where it is asked, with what it wrote to stderr; none outlives its parent's
interest: a closed stdin means the end.
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

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
"""Where the console scripts lie."""
ANSWER_SECONDS = 120.0


class Child:
    """`python -m MODULE`; it says a first line when it is ready."""

    def __init__(self, module: str, *arguments: str | Path, env: Mapping[str, str] = {}) -> None:
        self._name = module
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - read when it has ended
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
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
            self.process.communicate(timeout=60)
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
