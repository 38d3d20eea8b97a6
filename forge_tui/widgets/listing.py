"""A list that knows its length but holds one page of rows: ten thousand sessions scroll smoothly.

The widget never reads anything: when it needs rows that it does not have, it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from rich.text import Text
from textual.message import Message

from forge_tui.state import Page, R
from forge_tui.text import pad, safe
from forge_tui.widgets.textpane import TextPane

RowLine = Callable[[R, int, bool], Text]
"""A row, the width, and whether the cursor is on it."""


class Listing(Generic[R], TextPane, can_focus=True):
    """Rows with a cursor."""

    @dataclass
    class Wanted(Message):
        """Rows from this place on are needed."""

        index: int

    @dataclass
    class Moved(Message):
        """The cursor is on another row."""

        index: int

    def __init__(self, line: RowLine[R], key: Callable[[R], str], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._line = line
        self._key = key
        """What tells one row from another; the cursor stays on it."""
        self._page: Page[R] = Page()
        self._top = 0
        self.cursor = 0

    @property
    def selected(self) -> R | None:
        """The row under the cursor, if it is at hand."""
        return self._row(self.cursor)

    @property
    def total(self) -> int:
        """How many rows there are."""
        return self._page.total

    @property
    def first(self) -> int:
        """Index of the first visible row."""
        return self._top

    def show_page(self, page: Page[R]) -> None:
        """Take in rows; the cursor stays on its row when that moved by a little."""
        same_list = page.query == self._page.query
        chosen = self.selected if same_list else None
        self._page = page
        if not same_list:
            self.cursor = self._top = 0
        if chosen is not None and (row := self.selected) is not None:
            wanted = self._key(chosen)
            if self._key(row) != wanted:
                places = (page.offset + i for i, row in enumerate(page.rows) if self._key(row) == wanted)
                self.cursor = next(places, self.cursor)
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

    def _row(self, index: int) -> R | None:
        place = index - self._page.offset
        return self._page.rows[place] if 0 <= place < len(self._page.rows) else None
