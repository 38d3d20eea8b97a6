"""Small synchronous reads before the screen opens and after it closed."""

from __future__ import annotations

from typing import TypeVar

from forge.errors import ForgeError, NotFoundError, RegistryError
from forge.home import Home
from forge.locks import is_held
from forge.registry import LIVE, Error, Query, State, metrics, queries
from forge.registry.query import fetch
from forge.registry.sqlite import open_reader
from forge_tui import units
from forge_tui.present import words
from forge_tui.text import clean

T = TypeVar("T")


def find_session(home: Home, text: str) -> str:
    """The id of the session that a person means by a name, an id or its beginning.

    Raises:
        NotFoundError: none fits, or several do.
        RegistryError: the registry cannot be read.
    """
    rows = _fetch_registry(home, queries.find_sessions(text))
    exact = [row for row in rows if text in (row.name, row.id)]
    if exact:
        return exact[0].id
    if len(rows) == 1:
        return rows[0].id
    shown = clean(text)
    if rows:
        names = ", ".join(clean(row.name) for row in rows)
        raise NotFoundError(f'"{shown}" fits {len(rows)} sessions: {names}. Give more of the id.')
    raise NotFoundError(f'there is no session "{shown}" in {home.root}; "forge sessions" lists them.')


def _fetch_registry(home: Home, query: Query[T]) -> list[T]:
    if not home.registry.exists():
        return []
    try:
        connection = open_reader(home.registry)
        try:
            return fetch(connection, query)
        finally:
            connection.close()
    except Error as error:
        raise RegistryError(f"{home.registry} cannot be read: {error}.") from error


def progress_line(home: Home, session_id: str) -> str:
    """One plain line about a run, for a terminal without a screen."""
    try:
        path = home.session(session_id).metrics
        if not path.exists():
            return "starting"
        connection = open_reader(path)
        try:
            beats = fetch(connection, metrics.heartbeat())
        finally:
            connection.close()
    except (Error, ForgeError) as error:
        return f"progress cannot be read: {error}"
    if not beats:
        return "starting"
    beat = beats[0]
    left = f", {units.duration(beat.eta_seconds)} left" if beat.eta_seconds is not None else ""
    if beat.status:
        # Outside the step loop: nothing is known about how long that takes.
        left = f", {clean(beat.status)}"
    step, total = units.steps(beat.step), units.steps(beat.total_steps)
    return f"{words.phase_title(beat.phase)} step {step} of {total}{left}"


def session_name(home: Home, session_id: str) -> str:
    """What a person calls a session."""
    try:
        row = next(iter(_fetch_registry(home, queries.session(session_id))), None)
    except RegistryError:
        row = None
    return "the run" if row is None else clean(row.name)


def goes_on_line(home: Home, session_id: str) -> str | None:
    """That a run goes on which another process hosts, and how to come back; none where nobody runs it.

    The line of a run that this process hosts: see `headless`.
    """
    try:
        row = next(iter(_fetch_registry(home, queries.session(session_id))), None)
        if row is None or row.state not in LIVE or not is_held(home.session(session_id).lease):
            return None
    except (ForgeError, OSError):
        # Whether it goes on is not known, and the screen has said what is wrong.
        return None
    name, where = clean(row.name), clean(row.owner or "another process")
    how = "stays paused" if row.state is State.PAUSED else "goes on training"
    return (
        f"{name} {how} in {where}: {progress_line(home, session_id)}. Closing this terminal\n"
        f"is safe; forge-tui attaches again. forge stop {name} stops with a checkpoint."
    )


def last_line(home: Home, session_id: str) -> tuple[str, bool]:
    """How a run ended that was hosted here, with what to do next; and whether it failed."""
    row = next(iter(_fetch_registry(home, queries.session(session_id))), None)
    if row is None:
        return "the session is gone", True
    name = clean(row.name)
    if row.state is State.COMPLETED:
        return (
            f'{name} is completed. Its report: forge-tui {name}. Try it: forge generate {name} "def "',
            False,
        )
    if row.state is State.FAILED:
        return f"{name} failed: {clean(row.error or 'its log says why')}", True
    events = _fetch_registry(home, queries.latest_events(session_id, 10))
    why = next((f": {clean(event.message)}" for event in reversed(events) if event.kind == "stop"), "")
    return f"{name} is {row.state}{why}; forge resume {name} goes on with it", False
