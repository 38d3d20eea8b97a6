"""The question before quitting while a run lives in this program: stop it, keep it, or stay.

The choice under the cursor at first is the one that changes nothing.
"""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical

from forge_tui.actions import QUIT
from forge_tui.screens.base import Dialog, bindings
from forge_tui.styles import sheet
from forge_tui.text import compose, pad, safe
from forge_tui.widgets.textpane import TextPane

STOP, KEEP = "stop", "keep"


class QuitDialog(Dialog[str | None]):
    """What becomes of the run in this program: stop it, keep it without a screen, or stay."""

    NAME = QUIT
    CSS_PATH = sheet("dialogs")
    BINDINGS = bindings(QUIT)
    CHOICES: ClassVar[tuple[tuple[str, str, str | None], ...]] = (
        ("esc", "stay here", None),
        ("s", "stop at the next step with a checkpoint, then quit", STOP),
        ("b", "quit the screen and keep training without it", KEEP),
    )

    def __init__(self, name: str) -> None:
        super().__init__()
        self._session_name = name
        self._marked = 0
        self._stopping = False

    def compose(self) -> ComposeResult:
        """The question and its three answers."""
        with Vertical(id="quit", classes="box") as box:
            box.border_title = "quit"
            yield TextPane(id="question")

    def on_mount(self) -> None:
        """Write the question."""
        self._draw()

    def _draw(self) -> None:
        self.query_one(TextPane).show_by(lambda width, _: self._lines(width))

    def _lines(self, width: int) -> list[Text]:
        name = (self._session_name, "strong")
        if self._stopping:
            return [
                compose(name, (" stops at its next step…", "value"), width=width),
                safe(""),
                compose(("The checkpoint is written before this program ends.", "label"), width=width),
                compose(("b", "key"), ("  leave the screen now and let it finish", "label"), width=width),
            ]
        lines = [compose(name, (" is running in this program.", "value"), width=width), safe("")]
        for index, (key, title, _) in enumerate(self.CHOICES):
            mark = "▸ " if index == self._marked else "  "
            line = pad(compose((mark, "accent"), (f"{key:<5}", "key"), (title, "value")), width)
            lines.append(safe(line.plain, style="cursor") if index == self._marked else line)
        return lines

    def _answer(self, choice: str | None) -> None:
        if choice == STOP and not self._stopping:
            self._stopping = True
            self._draw()
            self.forge.stop_and_exit()
        elif choice == KEEP:
            self.forge.exit_keeping()
        elif not self._stopping:
            self.dismiss(None)

    def do_quit_stop(self, _key: str) -> None:
        """Stop, then quit."""
        self._answer(STOP)

    def do_quit_keep(self, _key: str) -> None:
        """Quit and keep training."""
        self._answer(KEEP)

    def do_quit_cancel(self, _key: str) -> None:
        """Stay."""
        self._answer(None)

    def do_quit_choose(self, _key: str) -> None:
        """Do what is marked."""
        self._answer(self.CHOICES[self._marked][2])

    def do_quit_next(self, _key: str) -> None:
        """Mark the next answer."""
        self._marked = (self._marked + 1) % len(self.CHOICES)
        self._draw()

    def do_quit_previous(self, _key: str) -> None:
        """Mark the answer before."""
        self._marked = (self._marked - 1) % len(self.CHOICES)
        self._draw()
