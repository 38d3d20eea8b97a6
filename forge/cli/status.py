"""`forge status`: what runs now, how far it is, and who runs it.

Whatever it says was true a moment ago: a dead owner is noticed by looking.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge import units
from forge.cli.console import put, put_json, put_table
from forge.cli.home import engine_of
from forge.cli.watch import STARTING, Look, Watch, figures, position
from forge.engine.lease import read_info
from forge.errors import NotFoundError
from forge.home import resolve_home
from forge.registry import LIVE, RESUMABLE, EventRow, PhaseRunRow, SessionRow, State, queries, silence_of

if TYPE_CHECKING:
    from forge.engine import Engine

_EVENTS = 5


def status(text: str | None, home: Path | None, *, json: bool) -> int:
    """Print the live sessions, or the one that is named; returns the exit code."""
    try:
        with engine_of(home) as engine:
            return _status(engine, text, json=json)
    except NotFoundError as error:
        if text is not None or resolve_home(home).registry.exists():
            raise
        if json:
            put_json({"sessions": []})
        else:
            put(f"nothing runs: {error}")
        return 0


def _status(engine: Engine, text: str | None, *, json: bool) -> int:
    if text is not None:
        shown = [engine.find(text)]
    else:
        engine.reconcile()
        owned = engine.registry.fetch(queries.owned_sessions())
        shown = [session for session in owned if session.state in LIVE or session.starting]
    if json:
        put_json({"sessions": [_facts(engine, session) for session in shown]})
        return 0
    for number, session in enumerate(shown):
        if number:
            put("")
        _describe(engine, session)
    if not shown:
        put(_idle(engine))
    return 0


def _idle(engine: Engine) -> str:
    newest = engine.registry.one(queries.sessions(limit=1))
    if newest is None:
        return 'nothing runs: there is no session yet; start one with "forge run tiny".'
    line = f"nothing runs; the newest session is {newest.name}, {newest.state}"
    if newest.state in RESUMABLE:
        line += f': go on with "forge resume {newest.name}"'
    return line


def _look(engine: Engine, session: SessionRow) -> Look:
    lease = read_info(engine.home.session(session.id).lease)
    # A run that has just begun must not show the figures of the one before it.
    watch = Watch(engine.registry, engine.home, session.id, since=lease.since if lease else 0.0)
    try:
        return watch.look()
    finally:
        watch.close()


def _describe(engine: Engine, session: SessionRow) -> None:
    look, now = _look(engine, session), time.time()
    live = session.state in LIVE
    owner = f" · {session.owner}" if live or session.starting else ""
    put(f"{session.name} · {'starting' if session.starting else session.state} · {session.preset}{owner}")
    if session.starting:
        put(f"  {STARTING}")
    for run in engine.registry.fetch(queries.phase_runs(session.id)):
        put(f"  {_phase(run, look, live=live)}")
    if (quiet := silence_of(session, look.beat, now)) is not None:
        put(f"  {quiet}")
    if look.problem:
        put(f"  {look.problem}")
    if session.error:
        put(f"  error: {session.error}")
    events = engine.registry.fetch(queries.latest_events(session.id, _EVENTS))
    put_table([[f"  {units.time_of_day(event.at)}", _sentence(event)] for event in events])
    if session.state in RESUMABLE and not session.starting:
        put(f'  go on with "forge resume {session.name}"')


def _phase(run: PhaseRunRow, look: Look, *, live: bool) -> str:
    beat = look.beat
    if live and beat is not None and beat.phase == run.phase and run.state in LIVE:
        share = f"({units.percent(beat.step, beat.total_steps)})" if beat.total_steps else ""
        parts = [f"{position(beat)} {share}".strip(), *figures(look)]
        parts.append(f"heartbeat {units.since(time.time() - beat.at)}")
        return f"{run.phase}: " + " · ".join(part for part in parts if part)
    if run.state is State.CREATED:
        return f"{run.phase}: not begun"
    return f"{run.phase}: {run.state} at step {units.steps(run.step)} of {units.steps(run.total_steps)}"


def _sentence(event: EventRow) -> str:
    return event.message if event.level == "info" else f"{event.level}: {event.message}"


def _facts(engine: Engine, session: SessionRow) -> dict[str, Any]:
    look, now = _look(engine, session), time.time()
    beat, progress = look.beat, None
    if beat is not None:
        age = round(now - beat.at, 3)
        progress = {**beat.model_dump(exclude={"at"}), "loss": look.loss, "heartbeat_age_seconds": age}
    return {
        **session.model_dump(exclude={"lease"}),
        "starting": session.starting,
        "progress": progress,
        "silence": silence_of(session, beat, now),
        "phases": [
            run.model_dump(exclude={"session_id", "id"})
            for run in engine.registry.fetch(queries.phase_runs(session.id))
        ],
        "events": [
            event.model_dump(exclude={"session_id"})
            for event in engine.registry.fetch(queries.latest_events(session.id, _EVENTS))
        ],
    }
