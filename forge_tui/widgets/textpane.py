"""Lines of text that repaint only what changed.

Textual sends a whole widget again when any of it changes; a pane compares the new lines with the old ones
and marks only the cells that differ, which is what keeps a slow link usable. Lines are built for the size
at which they are drawn, so the first frame is right and no frame shows lines of an older size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from forge_tui.widgets.ink import paper, strip

Lines = Sequence[Text]
Build = Callable[[int, int], Lines]
"""Lines for a width and a height; of a pane with `height: auto` the height is that of what it lies in."""


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
        self.follows = follow
        self._build: Build = lambda _width, _height: ()
        self._built_for: tuple[int, int] | None = None
        self._room = 0
        """Height of what a pane with `height: auto` lies in."""
        self._shown: tuple[Text, ...] = ()
        self._scrolled = 0
        """Lines scrolled back from the end (following) or down from the top."""

    @property
    def lines(self) -> tuple[Text, ...]:
        """What is shown, all of it."""
        self._fit()
        return self._shown

    @property
    def below(self) -> int:
        """How many lines lie below the last visible one."""
        self._fit()
        return self._scrolled if self.follows else self._most() - self._scrolled

    def show(self, lines: Lines) -> None:
        """Show these lines, whatever the size."""
        self.show_by(lambda _width, _height: lines)

    def show_by(self, build: Build) -> None:
        """Show what `build` makes of the pane's size; cells that stay the same are not touched."""
        self._build = build
        if self._built_for is None or not self.size:
            # Not on the screen: the lines are built when it comes there.
            self._built_for = None
            if self.styles.is_auto_height:
                self.refresh(layout=True)
            return
        before = self._visible()
        if self._rebuild(self._target()) and self.styles.is_auto_height:
            self.refresh(layout=True)
        else:
            self._repaint(before)

    def scroll_text(self, amount: int) -> None:
        """Scroll down, or up when negative; as far as there are lines."""
        before = self._visible()
        step = -amount if self.follows else amount
        self._scrolled = max(0, min(self._most(), self._scrolled + step))
        self._repaint(before)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As high as the lines, where the style sheet asks for `auto`."""
        self._room = container.height
        if self._built_for != (width, self._room):
            self._rebuild((width, self._room))
        return len(self._shown)

    def render_line(self, y: int) -> Strip:
        """One row of the pane."""
        self._fit()
        visible = self._visible()
        line = visible[y] if y < len(visible) else Text()
        return strip(line, self.size.width, paper(self))

    def _target(self) -> tuple[int, int]:
        width, height = self.size
        return width, self._room if self.styles.is_auto_height else height

    def _fit(self) -> None:
        """Build the lines again when the size is not the one that they were built for."""
        if self.size and self._built_for != self._target():
            self._rebuild(self._target())

    def _rebuild(self, target: tuple[int, int]) -> int:
        """Returns by how many lines the text has grown."""
        lines = tuple(self._build(*target))
        grown = len(lines) - len(self._shown)
        if self.follows and self._scrolled and grown > 0 and self._built_for == target:
            # Somebody reads older lines: keep them where they are.
            self._scrolled += grown
        self._shown, self._built_for = lines, target
        self._scrolled = min(self._scrolled, self._most())
        return grown

    def _most(self) -> int:
        return max(0, len(self._shown) - self.size.height)

    def _visible(self) -> tuple[Text, ...]:
        height = self.size.height
        start = self._most() - self._scrolled if self.follows else self._scrolled
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
    a, b = old.plain, new.plain
    widths = old.cell_len, new.cell_len
    # Only where every character covers one cell is a place in the text a place on the screen.
    if widths != (len(a), len(b)) or old.spans != new.spans or old.style != new.style:
        return 0, max(widths)
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if len(a) != len(b):
        return first, max(len(a), len(b))
    last = next(i for i in range(len(a) - 1, -1, -1) if a[i] != b[i])
    return first, last + 1
