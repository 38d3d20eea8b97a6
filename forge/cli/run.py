"""`forge run` and `forge resume`: a session hosted by this process, with its progress on stderr.

The main thread only waits and passes signals on. Training has a thread of its own, and so has the display,
so that neither a step nor a stalled terminal delays a checkpoint that was asked for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from signal import Signals as SignalNames
from typing import TYPE_CHECKING

from forge.cli import exits
from forge.cli.console import put_json, say
from forge.cli.home import engine_of
from forge.cli.report import answer_json, put_reports
from forge.cli.signals import Signals
from forge.errors import ForgeError, NotFoundError

if TYPE_CHECKING:
    from forge.engine import Engine, HostedRun
    from forge.registry import SessionRow

_WAIT_SECONDS = 0.2


def run(
    source: str, overrides: Sequence[str], name: str | None, home: Path | None, *, json: bool, quiet: bool
) -> int:
    """Make a session from a preset or file and run it; returns the exit code."""
    from forge.config import load_config

    config = load_config(source, overrides)
    with engine_of(home, create=True) as engine:
        return host(engine, engine.create(config, name), json=json, quiet=quiet)


def resume(text: str | None, home: Path | None, *, json: bool, quiet: bool) -> int:
    """Go on with a session: a paused live one is told to, any other is hosted here."""
    from forge.cli.control import ask
    from forge.registry import State

    with engine_of(home) as engine:
        session = _to_resume(engine, text)
        if session.state is State.PAUSED:
            return ask(engine, session, "resume", wait=True)
        return host(engine, session.id, json=json, quiet=quiet)


def host(engine: Engine, session_id: str, *, json: bool, quiet: bool) -> int:
    """Run a session in this process until it ends or is stopped; returns the exit code."""
    from forge.cli.display import Display, renderer
    from forge.cli.watch import Watch

    with Signals(engine.home.session(session_id).log) as signals:
        watch = Watch(engine.registry, engine.home, session_id, since=time.time())
        hosted = engine.host(session_id)
        session = engine.session(session_id)
        display = Display(watch, signals, renderer)
        if not quiet:
            say(f'{session.name} runs here; watch it with "forge-tui {session.name}", Ctrl-C stops it')
            display.start()
        _wait(hosted, signals)
        shown = quiet or display.close()
        code = _exit_code(engine, hosted, signals)
        if not shown:
            # Anything more would wait for a terminal that takes no output.
            engine.shutdown()
            os._exit(code)
        _answer(engine, session_id, signals, json=json)
    return code


def _wait(hosted: HostedRun, signals: Signals) -> None:
    asked = False
    while not hosted.wait(_WAIT_SECONDS):
        if signals.stop is not None and not asked:
            asked = True
            hosted.stop(f"stopped by {SignalNames(signals.stop).name}")
