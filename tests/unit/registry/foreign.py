"""A program that is not Forge and leaves a cursor open on one of its databases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forge.registry import sqlite

PROGRAM = """
import sys
from importlib import import_module
sqlite = import_module(sys.argv[1] + ".dbapi2")
cursor = sqlite.connect(f"file:{sys.argv[2]}?mode=ro", uri=True).execute(f"SELECT * FROM {sys.argv[3]}")
cursor.fetchone()
print("reading", flush=True)
sys.stdin.read()
"""


@contextmanager
def foreign_reader(database: Path, table: str) -> Iterator[subprocess.Popen[str]]:
    """The process; it reads the first of several rows, and stands there until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, sqlite.LIBRARY, str(database), table],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        yield process
        if process.poll() is None:
            process.communicate()
