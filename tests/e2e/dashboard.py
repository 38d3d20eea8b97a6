"""What a person reads off the dashboard, and how one fills the form."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.terminal import Terminal
from tests.e2e.watch import Watch

_STEP = r"step ([\d,]+) of"
_EMPTY = ("", "chosen by Forge when empty", "no limit when empty")
_LOSS = r"train (\d+\.\d+)"


def step_on(screen: Terminal) -> int:
    """The step that the screen shows; -1 while it shows none."""
    found = screen.find(_STEP)
    return -1 if found is None else int(found.replace(",", ""))


def loss_on(screen: Terminal) -> str | None:
    """The training loss that the screen shows, as it is written; none while it shows none."""
    return screen.find(_LOSS)


def wait_for_a_later_step(screen: Terminal, after: int = 0) -> None:
    """The run goes on, and the screen shows it."""
    screen.wait_until(lambda: screen.sees("RUNNING") and step_on(screen) > after, f"a step after {after}")


def newer_samples(watch: Watch, count: int) -> Callable[[], bool]:
    """Whether the machine's load was measured so often since this was called: time passed for the run too."""
    before = len(watch.steps("system", "rss_bytes"))
    return lambda: len(watch.steps("system", "rss_bytes")) >= before + count


def fill(screen: Terminal, field: str, text: str) -> None:
    """Go on to the next field where the cursor is not in this one yet, and write over what stands there.

    Each step waits for the one before to be seen: letters overtake keys that a screen binds.
    """

    def value() -> str | None:
        line = screen.cursor_line.strip()
        return line.removeprefix(field).strip() if line.startswith(field) else None

    if value() is None:
        screen.press("tab")
        screen.wait_until(lambda: value() is not None, f"the cursor at {field!r}")
    if value() not in _EMPTY:
        screen.press("ctrl+a", "ctrl+k")
        screen.wait_until(lambda: value() in _EMPTY, f"nothing at {field!r}")
    screen.press(text)
    screen.wait_until(lambda: (value() or "").endswith(text[-16:]), f"{text!r} at {field!r}")
