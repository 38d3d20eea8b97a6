"""A notice for who looks elsewhere: the run on this terminal ended, failed, or stands still by itself.

Whether and how is in the settings of the home. Nothing is sent to what is no terminal.
"""

from __future__ import annotations

import contextlib
import sys

from forge.config import load_settings
from forge.errors import ConfigError
from forge.home import Home
from forge.registry import State
from forge.streams import inside
from forge.text import alert


def is_news(outcome: State, *, asked_here: bool) -> bool:
    """Whether the person at this terminal has not just ended the run themselves."""
    return not (outcome is State.STOPPED and asked_here)


def ring(home: Home, text: str) -> None:
    """Call the person at the terminal that stderr is."""
    if not sys.stderr.isatty():
        return
    try:
        how = load_settings(home.settings).notify.terminal
    except ConfigError:
        # The run's own events say what is wrong with the settings.
        how = "bell"
    stream = inside(sys.stderr)
    with contextlib.suppress(OSError):
        stream.write(alert(how, text))
        stream.flush()
