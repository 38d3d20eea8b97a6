"""The progress of a run on stderr: a bar on a terminal, a plain line now and then elsewhere.

It lives on a thread of its own that only reads and writes text. A terminal that stalls or goes away stops
this thread and nothing else: neither training nor the answer to a signal waits for it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, Progress, TextColumn

from forge import units
from forge.cli.watch import Look, Watch, figures, position
from forge.registry import EventRow
from forge.signals import Signals
from forge.streams import inside
from forge.text import clean

TICK_SECONDS = 0.5
"""Between two looks: each costs training about a millisecond."""
LINE_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_STOPPING = "stopping after this step, with a checkpoint; once more ends at once"


class Renderer(Protocol):
    """How looks and lines become output."""

    def show(self, look: Look) -> None:
        """Show how far the run is."""

    def tell(self, line: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Lines:
    """Plain lines, for a log or a pipe."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last: tuple[float, str] | None = None

    def show(self, look: Look) -> None:
        """A line every few seconds, none when nothing changed."""
        now, line = self._clock(), _line(look)
        if self._last is not None and (now - self._last[0] < LINE_SECONDS or line == self._last[1]):
            return
        self._last = (now, line)
        self.tell(line)

    def tell(self, line: str) -> None:
        """See `Renderer.tell`."""
        print(clean(line), file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing is left to undo."""


class Bar:
    """One bar for the phase that runs, with its figures, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # Without a refresh thread and with the real streams left alone: this thread draws when it has looked.
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(file=stream, stderr=True, highlight=False),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
            transient=True,
        )
        self._task = self._progress.add_task("", figures="", total=None)
        self._progress.start()

    def show(self, look: Look) -> None:
        """Redraw the bar."""
        self._fit()
        beat = look.beat
        stepping = beat is not None and beat.total_steps > 0
        parts = [f"{units.steps(beat.step)}/{units.steps(beat.total_steps)}"] if beat and stepping else []
        self._progress.update(
            self._task,
            description=clean(beat.phase if beat else look.session.name),
            figures=clean(" · ".join([*parts, *figures(look)])),
            completed=beat.step if beat is not None else 0,
            total=beat.total_steps if beat is not None and stepping else None,
        )
        self._progress.refresh()

    def tell(self, line: str) -> None:
        """Print above the bar."""
        self._fit()
        self._progress.console.print(clean(line), markup=False)

    def close(self) -> None:
        """Remove the bar and give the cursor back."""
        self._progress.stop()

    def _fit(self) -> None:
        columns, lines = os.get_terminal_size(self._stream.fileno())
        # The terminal writes ^C behind the bar; if that took a second line, the bar could not be removed.
        self._progress.console.size = ConsoleDimensions(max(20, columns - 3), lines)


class Display:
    """The thread `forge-show`, which shows a run from now until `close`."""

    def __init__(
        self,
        watch: Watch,
        signals: Signals,
        renderer: Callable[[], Renderer],
        intro: str = "",
        ring: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._intro = intro
        self._watch = watch
        self._signals = signals
        self._make = renderer
        self._ring = ring
        self._told_stopping = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forge-show", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """Show the last news and end; false when the terminal takes no output, so that it cannot end."""
        self._end.set()
        self._thread.join(_CLOSE_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._show()
        except OSError:
            # The terminal is gone, and with it whoever could be told.
            return
        finally:
            self._watch.close()

    def _show(self) -> None:
        renderer = self._make()
        if self._intro:
            renderer.tell(self._intro)
        ended = False
        while not ended:
            ended = self._end.wait(TICK_SECONDS)
            if self._signals.hung_up:
                # The stream leads elsewhere now, where nobody wants a bar.
                return
            for event in self._watch.news():
                renderer.tell(_event(event))
                if event.kind == "disk" and event.level != "info":
                    self._ring(event.message)
            if not ended:
                self._show_progress(renderer)
        renderer.close()

    def _show_progress(self, renderer: Renderer) -> None:
        if self._signals.stop is not None and not self._told_stopping:
            self._told_stopping = True
            renderer.tell(_STOPPING)
        renderer.show(self._watch.look())


def renderer(stream: TextIO | None = None) -> Renderer:
    """What suits a stream: a bar where the cursor can be moved, lines elsewhere."""
    stream = inside(stream or sys.stderr)
    console = Console(file=stream)
    return Bar(stream) if console.is_terminal and not console.is_dumb_terminal else Lines(stream)


def _line(look: Look) -> str:
    if look.beat is None:
        return f"{look.session.name}: {', '.join(figures(look))}"
    where = f"{look.beat.phase} {position(look.beat)}".rstrip()
    share = f" ({units.percent(look.beat.step, look.beat.total_steps)})" if look.beat.total_steps else ""
    return ", ".join([where + share, *figures(look)])


def _event(event: EventRow) -> str:
    level = "" if event.level == "info" else f"{event.level}: "
    return f"{units.time_of_day(event.at)} {level}{event.message}"
