"""`forge stop` and `forge pause`: a request to whoever runs a session, and the wait for the answer.

The request is a row in the registry. It stays there when the wait ends early, and is answered all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from forge.cli.console import say
from forge.cli.exits import complain
from forge.cli.home import engine_of
from forge.errors import NotFoundError
from forge.registry import CommandRow, SessionRow, queries

if TYPE_CHECKING:
    from forge.engine import Engine

WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.1


def control(kind: str, text: str | None, home: Path | None, *, wait: bool) -> int:
    """Ask for `pause` or `stop`; returns the exit code.

    Raises:
        NotFoundError: no such session; or none is named, and none or several run.
        IllegalTransitionError: nobody runs it.
    """
    with engine_of(home) as engine:
        session = engine.find(text)
        if text is None and session.lease is None:
            raise NotFoundError(f"nothing runs, so there is nothing to {kind}.")
        return ask(engine, session, kind, wait=wait)


def ask(engine: Engine, session: SessionRow, kind: str, *, wait: bool, seconds: float = WAIT_SECONDS) -> int:
    """Ask the owner of a session for something and tell what became of it; returns the exit code.

    Raises:
        IllegalTransitionError: nobody runs the session.
    """
    command = engine.request(session.id, kind)
    asked = f"{kind} requested of {session.name} ({session.owner or 'its owner'})"
    if not wait:
        say(asked)
        return 0
    say(f"{asked}; waiting for the end of its step …")
    deadline = time.monotonic() + seconds
    if not _until(lambda: _answered(engine, command), deadline):
        complain(
            f"no answer from {session.name} in {seconds:.0f} seconds; the request stands and is answered "
            f'after its step. See "forge status {session.name}".'
        )
        return 1
    answer = engine.registry.fetch(queries.command(command.id))[0]
    if answer.state != "done":
        complain(f"{kind} of {session.name} was {answer.state}: {answer.answer}.")
        return 1
    if kind == "stop":
        # Who resumes right after this must find the session free.
        _until(lambda: not _held(engine, session.id), deadline)
    say(f"done: {session.name} {answer.answer}")
    return 0


def _until(condition: Callable[[], bool], deadline: float) -> bool:
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _answered(engine: Engine, command: CommandRow) -> bool:
    # An owner that dies never answers; to look is to notice, and its commands become void.
    engine.reconcile()
    row = engine.registry.one(queries.command(command.id))
    return row is None or row.state not in ("requested", "claimed")


def _held(engine: Engine, session_id: str) -> bool:
    from forge.locks import is_held

    return is_held(engine.home.session(session_id).lease)
