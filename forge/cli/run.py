"""`forge run` and `forge resume`: a session hosted by this process, with its progress on stderr.

The main thread only waits and passes signals on. Training has a thread of its own, and so has the display,
so that neither a step nor a stalled terminal delays a checkpoint that was asked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from signal import Signals as SignalNames
from typing import TYPE_CHECKING

from forge.cli import exits
from forge.cli.console import put_json, say
from forge.cli.home import engine_of
from forge.cli.report import answer, put_reports
from forge.errors import ForgeError, NotFoundError
from forge.signals import Signals

if TYPE_CHECKING:
    from forge.config import PipelineConfig
    from forge.engine import Engine, HostedRun
    from forge.registry import SessionRow

_WAIT_SECONDS = 0.2


def run(
    source: str, overrides: Sequence[str], name: str | None, home: Path | None, *, json: bool, quiet: bool
) -> int:
    """Make a session from a preset or file and run it; returns the exit code."""
    from forge.config import load_config
    from forge.config.corpus import require_corpus

    config = load_config(source, overrides)
    # Before there is a home, let alone a session.
    require_corpus(config.data.corpus)
    if config.runtime.device.startswith("cuda"):
        _require_card(config)
    with engine_of(home, create=True) as engine:
        return host(engine, engine.create(config, name), json=json, quiet=quiet)


def _require_card(config: PipelineConfig) -> None:
    """Refuse a card that is not there or full before a session is made that could never run."""
    from forge.engine.device import find_device

    find_device(config.runtime)


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
        name = hosted.session.name
        intro = f"{name} runs here; watch: forge-tui {name}; stop: Ctrl-C"
        display = None if quiet else Display(watch, signals, renderer, intro)
        _wait(hosted, signals)
        code = _exit_code(hosted, signals)
        if display is not None and not display.close():
            # Whatever is printed from here on would wait for a terminal that takes no output.
            engine.shutdown()
            os._exit(code)
        _remark(engine, hosted, signals)
        if 1 not in signals.redirected:
            _answer(engine, session_id, json=json)
    return code


def _wait(hosted: HostedRun, signals: Signals) -> None:
    asked = False
    while not hosted.wait(_WAIT_SECONDS):
        signals.look()
        if signals.stop is not None and not asked:
            asked = True
            hosted.stop(f"stopped by {SignalNames(signals.stop).name}")


def _exit_code(hosted: HostedRun, signals: Signals) -> int:
    from forge.registry import State

    if hosted.outcome is State.COMPLETED:
        return 0
    if hosted.outcome is State.STOPPED:
        return exits.STOPPED if signals.stop is None else 128 + signals.stop
    return hosted.failure.exit_code if isinstance(hosted.failure, ForgeError) else 1


def _remark(engine: Engine, hosted: HostedRun, signals: Signals) -> None:
    """How it ended, and what to do next, on stderr."""
    from forge.registry import State

    if 2 in signals.redirected:
        return
    session = engine.session(hosted.session.id)
    name = session.name
    if hosted.outcome is State.COMPLETED:
        say(f"{name} completed", f'try it with: forge generate {name} "def "')
    elif hosted.outcome is State.STOPPED:
        say(f"{name} {_stop_message(engine, session)}", f"go on with: forge resume {name}")
    else:
        exits.complain(session.error or hosted.failure or f"how {name} ended could not be recorded.")
        say(f"once that is put right, go on with: forge resume {name}")


def _stop_message(engine: Engine, session: SessionRow) -> str:
    """What the engine said last about the stop: who asked, and which checkpoint there is."""
    from forge.registry import queries

    events = engine.registry.fetch(queries.latest_events(session.id, 10))
    return next((event.message for event in reversed(events) if event.kind == "stop"), "stopped")


def _answer(engine: Engine, session_id: str, *, json: bool) -> None:
    if json:
        put_json(answer(engine, session_id))
    else:
        put_reports(engine, session_id)


def _to_resume(engine: Engine, text: str | None) -> SessionRow:
    """The session that is to go on; without a name the paused one, else the newest that can.

    Raises:
        NotFoundError: none can, or several are paused.
    """
    from forge.registry import LIVE, RESUMABLE, queries

    if text is not None:
        return engine.find(text)
    engine.reconcile()
    if engine.registry.fetch(queries.sessions(limit=1, states=LIVE)):
        return engine.find(None)
    newest = engine.registry.one(queries.sessions(limit=1, states=RESUMABLE))
    if newest is None:
        raise NotFoundError('no session is waiting to go on; "forge sessions" lists them all.')
    return newest
