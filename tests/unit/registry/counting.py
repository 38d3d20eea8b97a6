"""Processes that count up in a session's note: each change reads the number and writes the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from forge.home import Home
from forge.registry import Connection, Registry, edits, queries

ROOT = Path(__file__).parents[3]


def count_up(home: Path, session: str, processes: int, times: int, *, apart: bool = False) -> list[str]:
    """Let `processes` count `times` each; returns the last words of those that failed.

    Args:
        home: the home whose registry they open.
        session: whose note is the counter.
        processes: how many, at once.
        times: changes of each.
        apart: read outside the transaction, which is wrong.
    """
    command = [sys.executable, "-m", __name__, str(home), session, str(times), *(["apart"] * apart)]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]  # fmt: skip
    for child in started:
        # Nobody begins before everybody is there, else the first is done before the last has started.
        assert child.stdout is not None
        child.stdout.readline()
    for child in started:
        assert child.stdin is not None
        child.stdin.close()
    errors = []
    for child in started:
        assert child.stderr is not None
        words = child.stderr.read()
        child.stderr.close()
        if child.wait() != 0:
            errors.append(words.strip().splitlines()[-1])
    return errors


def _next(c: Connection, session: str) -> None:
    edits.set_note(c, session, str(int(edits.get_session(c, session).note) + 1))


def _apart(registry: Registry, session: str) -> None:
    found = registry.one(queries.session(session))
    assert found is not None
    following = str(int(found.note) + 1)
    registry.write(lambda c: edits.set_note(c, session, following))


def main() -> None:
    """Count up as often as the command line says, once stdin is closed."""
    home, session, times = sys.argv[1:4]
    with Registry.open(Home(Path(home))) as registry:
        print("ready", flush=True)
        sys.stdin.read()
        for _ in range(int(times)):
            if sys.argv[4:]:
                _apart(registry, session)
            else:
                registry.write(lambda c: _next(c, session))


if __name__ == "__main__":
    main()
