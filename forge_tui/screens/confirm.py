"""A question about something that is hard to undo; the answer is no unless somebody says yes."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical

from forge_tui.actions import CONFIRM
from forge_tui.screens.base import Dialog, bindings
from forge_tui.styles import sheet
from forge_tui.text import compose, safe, safe_lines, wrap
from forge_tui.widgets.textpane import TextPane


class ConfirmDialog(Dialog[bool]):
    """A question whose answer is no unless somebody says yes."""

    NAME = CONFIRM
    CSS_PATH = sheet("dialogs")
    BINDINGS = bindings(CONFIRM)

    def __init__(self, title: str, question: str) -> None:
        super().__init__()
        self._heading = title
        self._question = question

    def compose(self) -> ComposeResult:
        """The question."""
        with Vertical(id="confirm", classes="box") as box:
            box.border_title = safe(self._heading)
            yield TextPane(id="question")

    def on_mount(self) -> None:
        """Write the question and its two answers."""
        self.query_one(TextPane).show_by(self._lines)

    def _lines(self, width: int, _height: int) -> list[Text]:
        question = [safe(part) for line in safe_lines(self._question) for part in wrap(line.plain, width)]
        answers = compose(
            ("y", "key"),
            (" yes    ", "label"),
            ("enter", "key"),
            (" or ", "label"),
            ("esc", "key"),
            (" no", "label"),
        )
        return [*question, safe(""), answers]

    def do_confirm_yes(self, _key: str) -> None:
        """Yes."""
        self.dismiss(True)

    def do_confirm_no(self, _key: str) -> None:
        """No."""
        self.dismiss(False)
