"""One of a few values, changed with the arrow keys; takes one line and opens no list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.message import Message

from forge_tui.text import compose
from forge_tui.widgets.textpane import TextPane


class Choice(TextPane, can_focus=True):
    """Shows `‹ tiny ›` and steps through its values."""

    @dataclass
    class Changed(Message):
        """Another value was taken."""

        choice: str
        """Its id."""
        value: str

    def __init__(self, values: Sequence[str], value: str, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._values = tuple(values)
        self.value = value

    def on_mount(self) -> None:
        """Show the first value."""
        self._draw()

    def watch_has_focus(self, has_focus: bool) -> None:
        """The arrows come and go with the focus."""
        super().watch_has_focus(has_focus)
        self._draw()

    def step(self, amount: int) -> None:
        """Take the next value, or the one before."""
        place = (self._values.index(self.value) + amount) % len(self._values)
        self.take(self._values[place])
        self.post_message(self.Changed(self.id or "", self.value))

    def take(self, value: str) -> None:
        """Show a value, without a message."""
        self.value = value
        self._draw()

    def _draw(self) -> None:
        self.show([self._text()])

    def _text(self) -> Text:
        place = f"  {self._values.index(self.value) + 1} of {len(self._values)}"
        if self.has_focus:
            return compose(("< ", "key"), (self.value, "strong"), (" >", "key"), (place, "faint"))
        return compose("  ", (self.value, "value"), "  ", (place, "faint"))
