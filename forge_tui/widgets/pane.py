"""A titled box on the dashboard that can be in focus and be zoomed."""

from __future__ import annotations

from textual.containers import Vertical

from forge_tui.text import safe
from forge_tui.widgets.textpane import TextPane


class Pane(Vertical, can_focus=True):
    """A box around text and charts."""

    _titled: str | None = None
    _told = ""

    def set_title(self, title: str) -> None:
        """Change the title in the border, if it is another."""
        if self._titled != title:
            self._titled = title
            self.border_title = safe(title)

    def scroll_text(self, amount: int) -> bool:
        """Scroll the text inside; False when there is none that scrolls."""
        for text in self.query(TextPane):
            if text.scrolls:
                text.scroll_text(amount)
                return True
        return False

    def on_resize(self) -> None:
        """What lies below depends on the size."""
        self.call_after_refresh(self.tell_more)

    def tell_more(self) -> None:
        """Say in the border how many lines of text lie below what is visible."""
        text = next((text for text in self.query(TextPane) if text.scrolls and text.size), None)
        more = ""
        if text is not None and text.below:
            more = f"↓ {text.below} {'newer' if text.follows else 'more'}"
        if self._told != more:
            self._told = more
            self.border_subtitle = safe(more)

    @property
    def page(self) -> int:
        """Rows of text that are visible."""
        return max((text.size.height for text in self.query(TextPane) if text.scrolls), default=1)
