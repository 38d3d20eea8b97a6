"""Lines of text that repaint only what changed.

Textual sends a whole widget again when any of it changes; a pane compares the new lines with the old ones
and marks only the cells that differ, which is what keeps a slow link usable.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from forge_tui.widgets.ink import paper, strip

Lines = Sequence[Text]


class TextPane(Widget):
    """Shows lines from the top; `follow` shows the last ones and lets a person scroll back."""

    DEFAULT_CSS = "TextPane { height: 1fr; width: 1fr; overflow: hidden hidden; }"

    def __init__(
        self,
        *,
        id: str | None = None,
        follow: bool = False,
        scrolls: bool = False,
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.scrolls = scrolls or follow
        self._shown: tuple[Text, ...] = ()
        self._follow = follow
        self._scrolled = 0
        """Lines scrolled back from the end (following) or down from the top."""

    @property
    def lines(self) -> tuple[Text, ...]:
        """What is shown, all of it."""
        return self._shown

    @property
    def below(self) -> int:
        """How many lines lie below the last visible one."""
        return self._scrolled if self._follow else self._most() - self._scrolled

    @property
    def follows(self) -> bool:
        """Whether the newest line is shown unless somebody scrolls back."""
        return self._follow

    def show(self, lines: Lines) -> None:
        """Show these lines; cells that stay the same are not touched."""
        before = self._visible()
        grown = len(lines) - len(self._shown)
        self._shown = tuple(lines)
        if self._follow and self._scrolled and grown > 0:
            # Somebody reads older lines: keep them where they are.
            self._scrolled += grown
        self._scrolled = min(self._scrolled, self._most())
        if grown and self.styles.is_auto_height:
            self.refresh(layout=True)
        else:
            self._repaint(before)

    def scroll_text(self, amount: int) -> None:
        """Scroll down, or up when negative; as far as there are lines."""
        before = self._visible()
        step = -amount if self._follow else amount
        self._scrolled = max(0, min(self._most(), self._scrolled + step))
        self._repaint(before)

    def on_resize(self) -> None:
        """Keep the scroll position inside the lines."""
        self._scrolled = min(self._scrolled, self._most())

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As high as the lines, where the style sheet asks for `auto`."""
        return len(self._shown)

    def render_line(self, y: int) -> Strip:
        """One row of the pane."""
        visible = self._visible()
        line = visible[y] if y < len(visible) else Text()
        return strip(line, self.size.width, paper(self))

    def _most(self) -> int:
        return max(0, len(self._shown) - self.size.height)

    def _visible(self) -> tuple[Text, ...]:
        height = self.size.height
        start = self._most() - self._scrolled if self._follow else self._scrolled
        return self._shown[start : start + height]

    def _repaint(self, before: tuple[Text, ...]) -> None:
        width, height = self.size
        after = self._visible()
        regions = []
        for y in range(min(height, max(len(before), len(after)))):
            old = before[y] if y < len(before) else Text()
            new = after[y] if y < len(after) else Text()
            span = changed(old, new)
            if span is not None:
                regions.append(Region(span[0], y, max(1, min(span[1], width) - span[0]), 1))
        if regions:
            offset = self.content_region.offset - self.region.offset
            self.refresh(*(region.translate(offset) for region in regions))


def changed(old: Text, new: Text) -> tuple[int, int] | None:
    """The cells, from first to one past the last, in which two lines differ; none when they are the same."""
    if old.plain == new.plain and old.spans == new.spans and old.style == new.style:
        return None
    if not (old.plain.isascii() and new.plain.isascii()) or old.style != new.style:
        return 0, max(old.cell_len, new.cell_len)
    if old.spans != new.spans:
        return 0, max(len(old), len(new))
    a, b = old.plain, new.plain
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if len(a) != len(b):
        return first, max(len(a), len(b))
    last = next(i for i in range(len(a) - 1, -1, -1) if a[i] != b[i])
    return first, last + 1
