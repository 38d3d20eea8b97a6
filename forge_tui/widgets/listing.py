"""A list that knows its length but holds one page of rows: ten thousand sessions scroll smoothly.

The widget never reads anything: when it needs rows that it does not have, it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.text import Text
from textual.message import Message

from forge.registry.rows import SessionRow
from forge_tui.state import Page
from forge_tui.text import pad, safe
from forge_tui.widgets.textpane import TextPane

RowLine = Callable[[SessionRow, int, bool], Text]
"""A row, the width, and whether the cursor is on it."""


class Listing(TextPane, can_focus=True):
    """Rows with a cursor."""

    @dataclass
    class Wanted(Message):
        """Rows from this place on are needed."""

        index: int

    @dataclass
    class Moved(Message):
        """The cursor is on another row."""

        index: int

    def __init__(self, line: RowLine, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._line = line
        self._page = Page()
        self._top = 0
        self.cursor = 0

    @property
    def selected(self) -> SessionRow | None:
        """The row under the cursor, if it is at hand."""
        return self._row(self.cursor)

    @property
    def first(self) -> int:
        """Index of the first visible row."""
        return self._top

    def show_page(self, page: Page) -> None:
        """Take in rows; the cursor stays on its session when that moved by a little."""
        same_list = page.query == self._page.query
        chosen = self.selected if same_list else None
        self._page = page
        if not same_list:
            self.cursor = self._top = 0
        if chosen is not None and (row := self.selected) is not None and row.id != chosen.id:
            places = [page.offset + i for i, row in enumerate(page.rows) if row.id == chosen.id]
            self.cursor = places[0] if places else self.cursor
        self.move_to(self.cursor)

    def move(self, amount: int) -> None:
        """Move the cursor by some rows."""
        self.move_to(self.cursor + amount)

    def move_to(self, index: int) -> None:
        """Put the cursor on a row and keep it in view."""
        height = max(1, self.size.height)
        self.cursor = max(0, min(index, self._page.total - 1))
        self._top = min(max(self._top, self.cursor - height + 1), self.cursor)
        self._top = max(0, min(self._top, self._page.total - height))
        self._draw()
        self.post_message(self.Moved(self.cursor))

    def on_resize(self) -> None:
        """Fit the rows to the new size."""
        self.move_to(self.cursor)

    def _draw(self) -> None:
        self.show_by(self._rows)
        missing = [index for index in self._places(self.size.height) if self._row(index) is None]
        if missing:
            self.post_message(self.Wanted(missing[0]))

    def _rows(self, width: int, height: int) -> list[Text]:
        return [self._render_row(index, width) for index in self._places(height)]

    def _places(self, height: int) -> range:
        return range(self._top, min(self._page.total, self._top + height))

    def _render_row(self, index: int, width: int) -> Text:
        row = self._row(index)
        if row is None:
            return pad(safe(" …", style="faint"), width)
        return self._line(row, width, index == self.cursor)

    def _row(self, index: int) -> SessionRow | None:
        place = index - self._page.offset
        return self._page.rows[place] if 0 <= place < len(self._page.rows) else None
