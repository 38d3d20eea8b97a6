"""`forge run` and `forge resume`: a session here or in a process of its own, with its progress on stderr.

The main thread only waits and passes signals on. Training has a thread or a process of its own, and the
display a thread, so that neither a step nor a stalled terminal delays a checkpoint that was asked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from forge.cli import exits
from forge.cli.console import put, put_json, say
from forge.cli.home import engine_of
from forge.cli.report import answer, put_reports
from forge.errors import NotFoundError
from forge.signals import Signals

if TYPE_CHECKING:
    from forge.config import PipelineConfig
    from forge.engine import ChildRun, Engine, HostedRun
    from forge.engine.engine import Where
    from forge.registry import SessionRow, State


@dataclass(frozen=True)
class How:
    """How a person wants a session to be run."""

    where: Where | None = None
    """In a thread of this process or in a process of its own; none leaves it to the configuration."""
    detach: bool = False
    """Return once it runs."""
    json: bool = False
    quiet: bool = False


def run(source: str, overrides: Sequence[str], name: str | None, home: Path | None, how: How) -> int:
    """Make a session from a preset or file and run it; returns the exit code."""
    from forge.config import load_config
    from forge.config.corpus import require_corpora

    # The configuration that is frozen says what ran.
    where = [] if how.where is None else [f"runtime.host={how.where}"]
    config = load_config(source, [*overrides, *where])
    # Before there is a home, let alone a session.
    require_corpora(config.data)
    if config.runtime.device.startswith("cuda"):
        _require_card(config)
    with engine_of(home, create=True) as engine:
        return start(engine, engine.create(config, name), how)


def _require_card(config: PipelineConfig) -> None:
    """Refuse a card that is not there or full before a session is made that could never run."""
    from forge.engine.device import find_device

    find_device(config.runtime)


def resume(text: str | None, home: Path | None, how: How) -> int:
    """Go on with a session: a paused live one is told to, any other is started."""
    from forge.cli.control import ask
    from forge.registry import State

    with engine_of(home) as engine:
        session = _to_resume(engine, text)
        if session.state is State.PAUSED:
            return ask(engine, session, "resume", wait=True)
        return start(engine, session.id, how)


def start(engine: Engine, session_id: str, how: How) -> int:
    """Run a session until it ends or is stopped, or only start it; returns the exit code."""
    if how.detach:
        return _detach(engine, session_id, json=how.json)
    with Signals(engine.home.session(session_id).log) as signals:
        return _follow(engine, session_id, how, signals)


def _detach(engine: Engine, session_id: str, *, json: bool) -> int:
    child = engine.spawn(session_id)
    name = child.session.name
    if json:
        put_json({"session": session_id, "name": name, "pid": child.pid})
    else:
        put(name)
    say(
        f"{name} runs in pid {child.pid} and needs no terminal",
        f"watch: forge-tui {name}, or forge status {name}",
        f"stop:  forge stop {name}",
        f"log:   forge logs {name} --follow",
    )
    return 0


def _follow(engine: Engine, session_id: str, how: How, signals: Signals) -> int:
    from forge.cli.alarm import is_news, ring
    from forge.cli.display import Display, renderer
    from forge.cli.watch import Watch
    from forge.engine import HostedRun, attend

    watch = Watch(engine.registry, engine.home, session_id, since=time.time())
    run = engine.start(session_id, how.where)
    if not isinstance(run, HostedRun):
        signals.leave_on_hang_up()
    call = partial(ring, engine.home)
    display = None if how.quiet else Display(watch, signals, renderer, _intro(run), call)
    attend(run, signals)
    outcome = _outcome(engine, run)
    code = _exit_code(run, outcome, signals)
    if display is not None and not display.close():
        # Whatever is printed from here on would wait for a terminal that takes no output.
        engine.shutdown()
        os._exit(code)
    _remark(engine, run, outcome, signals)
    if is_news(outcome, asked_here=signals.stop is not None) and 2 not in signals.redirected:
        call(f"{run.session.name} {outcome}")
    if 1 not in signals.redirected:
        _answer(engine, session_id, json=how.json)
    return code


def _intro(run: HostedRun | ChildRun) -> str:
    from forge.engine import HostedRun

    name = run.session.name
    where = "here"
    if not isinstance(run, HostedRun):
        where = f"in pid {run.pid}, and goes on when this terminal closes"
    return f"{name} runs {where}; watch: forge-tui {name}; stop: Ctrl-C"


def _outcome(engine: Engine, run: HostedRun | ChildRun) -> State:
    """The state that a run ended in."""
    from forge.engine import HostedRun
    from forge.registry import State

    if isinstance(run, HostedRun):
        return run.outcome or State.INTERRUPTED
    engine.reconcile()
    return engine.session(run.session.id).state


def _exit_code(run: HostedRun | ChildRun, outcome: State, signals: Signals) -> int:
    from forge.registry import State

    if outcome is State.COMPLETED:
        return 0
    if outcome is State.STOPPED:
        return exits.STOPPED if signals.stop is None else 128 + signals.stop
    return max(run.exit_code or 0, 1)


def _remark(engine: Engine, run: HostedRun | ChildRun, outcome: State, signals: Signals) -> None:
    """How it ended, and what to do next, on stderr."""
    from forge.registry import State

    if 2 in signals.redirected:
        return
    session = engine.session(run.session.id)
    name = session.name
    if outcome is State.COMPLETED:
        say(f"{name} completed", f'try it with: forge generate {name} "def "')
    elif outcome is State.STOPPED:
        say(f"{name} {_last(engine, session, 'stop', 'stopped')}", f"go on with: forge resume {name}")
    else:
        unsaid = f"how {name} ended could not be recorded."
        why = session.error or getattr(run, "failure", None) or _last(engine, session, "interrupted", unsaid)
        exits.complain(why)
        say(f"once that is put right, go on with: forge resume {name}")


def _last(engine: Engine, session: SessionRow, kind: str, unsaid: str) -> str:
    """What was said last about the end, such as who asked for the stop and which checkpoint there is."""
    from forge.registry import queries

    events = engine.registry.fetch(queries.latest_events(session.id, 10))
    return next((event.message for event in reversed(events) if event.kind == kind), unsaid)


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
