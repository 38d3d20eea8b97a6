"""A run without its screen: one plain line about it, until it ends or somebody stops it.

Nothing here waits for the terminal: one that nobody reads misses lines, and one that is gone costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from forge_tui.services.lookup import goes_on_line, last_line, progress_line, session_name

if TYPE_CHECKING:
    from forge.home import Home
    from forge.text import Alert
    from forge_tui.life import Guard
    from forge_tui.ports import EnginePort
    from forge_tui.terminal import Terminal

PROGRESS_SECONDS = 1.0

_HOW_TO_LEAVE = """\
{name} goes on training without its screen. Closing this terminal is safe;
forge-tui attaches again. Ctrl-C stops with a checkpoint.
"""
_STOPPING = "\nstopping at the next step with a checkpoint; once more ends at once\n"
_NOT_SUSPENDED = (
    "\nCtrl-Z would suspend the training too, so it is ignored. Close this terminal, or open another one.\n"
)


def accompany(engine: EnginePort, home: Home, terminal: Terminal, guard: Guard, session_id: str) -> None:
    """Say how a run goes until it ends or a signal stops it."""
    terminal.lead_output(home.session(session_id).log)
    terminal.show(_HOW_TO_LEAVE.format(name=session_name(home, session_id)))
    suspensions = guard.suspensions
    while guard.stop is None and engine.hosted() == session_id:
        if not terminal.gone:
            width = terminal.columns - 1
            terminal.show(f"{progress_line(home, session_id):<{width}.{width}}", over=True)
        guard.rest(PROGRESS_SECONDS)
        if guard.suspensions != suspensions:
            suspensions = guard.suspensions
            terminal.show(_NOT_SUSPENDED)
    terminal.show(_STOPPING if guard.stop is not None else "\n")
    if guard.stop is None:
        terminal.ring(_how_to_call(home), f"{session_name(home, session_id)} ended")


def _how_to_call(home: Home) -> Alert:
    from forge.config import load_settings
    from forge.errors import ConfigError

    try:
        return load_settings(home.settings).notify.terminal
    except ConfigError:
        # The run's own events say what is wrong with the settings.
        return "bell"


def point_back(home: Home, terminal: Terminal, sessions: Iterable[str | None]) -> None:
    """Say of each run that another process hosts that it goes on, and how to come back to it."""
    for session_id in dict.fromkeys(sessions):
        line = None if session_id is None else goes_on_line(home, session_id)
        if line is not None:
            terminal.show(f"{line}\n")


def see_off(home: Home, terminal: Terminal, session_id: str) -> bool:
    """Say how a run ended; returns whether it failed."""
    line, failed = last_line(home, session_id)
    terminal.show(f"{line}\n")
    return failed
