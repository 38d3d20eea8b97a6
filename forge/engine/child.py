"""The process that hosts one session and does nothing else; `forge.engine.process` starts it.

    python -P -m forge.engine.child HOME SESSION DESCRIPTOR

Into the descriptor goes one document, and then its end: that the lease is held, or why it is not. After that
the process is on its own: a signal stops it with a checkpoint, and a terminal it never had.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from forge.engine.engine import Engine
from forge.engine.host import HostedRun
from forge.engine.process import attend
from forge.errors import ForgeError
from forge.home import Home
from forge.signals import Signals


def main(root: str, session_id: str, descriptor: int) -> int:
    """Run the session; returns the exit code."""
    # A process that this one starts must not keep the starter waiting.
    os.set_inheritable(descriptor, False)
    home = Home(Path(root))
    with Signals(home.session(session_id).log) as signals:
        try:
            engine = Engine(home)
            run = engine.host(session_id)
        except ForgeError as error:
            _say(descriptor, {"error": str(error), "exit_code": error.exit_code})
            return error.exit_code
        _say(descriptor, {"held": True})
        return _attend(engine, run, signals)


def _attend(engine: Engine, run: HostedRun, signals: Signals) -> int:
    try:
        attend(run, signals)
    finally:
        engine.shutdown()
    return run.exit_code or 0


def _say(descriptor: int, word: dict[str, object]) -> None:
    try:
        os.write(descriptor, json.dumps(word).encode())
    except BrokenPipeError:
        # Whoever started us has gone already: the run is what counts.
        return
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
