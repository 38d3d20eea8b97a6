"""The application's outer shell: theme, size, what is typed and pasted, what is said, and what is sent.

Nothing here knows of sessions. Everything that a person types and everything that reaches the terminal passes
through it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TextIO, cast

from rich.console import Console, RenderableType
from textual import events
from textual._compositor import ChopsUpdate
from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input

from forge.streams import Harmless
from forge.text import Alert, alert
from forge_tui.driver import driver_of
from forge_tui.screens.base import Acting, TooSmall, too_small
from forge_tui.styles import sheet
from forge_tui.terminal import Terminal
from forge_tui.text import clean_lines
from forge_tui.widgets.ascii import AsciiFilter
from forge_tui.widgets.frame import TightUpdate
from forge_tui.widgets.ink import DARK


class Shell(App[str]):
    """An application that looks after its terminal."""

    TITLE = "Forge"
    CSS_PATH = sheet("theme")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q,ctrl+c", "ask_quit", "quit", show=False, priority=True)
    ]

    def __init__(self, *, ascii_only: bool) -> None:
        super().__init__()
        self.animation_level = "none"
        self.register_theme(DARK)
        self.theme = DARK.name
        if ascii_only:
            self._filters.append(AsciiFilter())
        self._terminal: Terminal | None = None

    def show_on(self, terminal: Terminal) -> None:
        """Show the screen on a terminal; to be called before it runs."""
        self._terminal = terminal
        self.driver_class = driver_of(terminal, self.may_suspend)
        # Why the screen failed is told where the screen was, with whatever text stood in it.
        stream = Harmless(cast(TextIO, terminal), terminal=False)
        self.error_console = Console(file=cast(TextIO, stream), markup=False, highlight=False)

    def lead_output(self, log: Path | None) -> None:
        """Where what libraries print goes while the screen is on; none throws it away."""
        if self._terminal is not None:
            self._terminal.lead_output(log)

    def may_suspend(self) -> bool:
        """Whether SIGTSTP may stop this process."""
        return True

    def hint(self, text: str) -> None:
        """A short sentence that goes away by itself and replaces the one before."""
        self.say(text, "warning", timeout=4)

    def say(self, text: str, severity: str = "information", *, timeout: float = 6) -> None:
        """Show a sentence from anywhere; the only place that notifies."""
        self.clear_notifications()
        self.notify(clean_lines(text), severity=severity, timeout=timeout, markup=False)  # type: ignore[arg-type]

    def ring(self, how: Alert, text: str) -> None:
        """Call a person who looks elsewhere, through the same writer as every frame."""
        if self._driver is not None and not self.is_headless:
            self._driver.write(alert(how, text))

    def on_resize(self, event: events.Resize) -> None:
        """Say so when the terminal is too small, and come back when it is not."""
        small = too_small(event.size.width, event.size.height)
        shown = isinstance(self.screen, TooSmall)
        if small and not shown:
            self.push_screen(TooSmall())
        elif shown and not small:
            self.pop_screen()

    async def on_event(self, event: events.Event) -> None:
        """Look after what is typed and pasted: on its way in, and when nothing has made use of it."""
        if isinstance(event, events.Paste):
            # A field shows its value as it is.
            event.text = clean_lines(event.text)
        if isinstance(event, (events.Key, events.Paste)) and event.is_forwarded:
            if self._typed_ahead(event):
                return
            if isinstance(event, events.Key) and isinstance(self.screen, Acting):
                self.screen.explain(event.key)
        await super().on_event(event)

    def _typed_ahead(self, event: events.Key | events.Paste) -> bool:
        """Give a field what came before the focus had come there; what a field hears itself it keeps."""
        field = self.focused
        text = event.text.partition("\n")[0] if isinstance(event, events.Paste) else event.character
        if not isinstance(field, Input) or not text or not text.isprintable():
            return False
        field.insert_text_at_cursor(text)
        return True

    def _print(self, text: str, stderr: bool = False) -> None:
        # What Python code prints while the screen is on goes where a C library's output goes.
        super()._print(text, stderr)
        if self._terminal is not None:
            self._terminal.log(text)

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        if isinstance(renderable, ChopsUpdate):
            renderable = TightUpdate.of(renderable)
        super()._display(screen, renderable)
