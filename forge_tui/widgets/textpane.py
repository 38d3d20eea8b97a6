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

JOINED = 8
"""To begin anew at another place costs a terminal's colours and about as many bytes as 40 cells hold."""


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
            # Not on the screen, or not drawn since it came back: the lines are built when it is drawn.
            self._built_for = None
            self.refresh(layout=self.styles.is_auto_height)
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
            for first, last in changed(old, new):
                regions.append(Region(first, y, max(1, min(last, width) - first), 1))
        if regions:
            offset = self.content_region.offset - self.region.offset
            self.refresh(*(region.translate(offset) for region in regions))


def changed(old: Text, new: Text) -> list[tuple[int, int]]:
    """The runs of cells, each from its first to one past its last, in which two lines differ."""
    if old.plain == new.plain and old.spans == new.spans and old.style == new.style:
        return []
    width = max(old.cell_len, new.cell_len)
    if old.cell_len != len(old.plain) or new.cell_len != len(new.plain):
        # Only where every character covers one cell is a place in the text a place on the screen.
        return [(0, width)]
    before, after = _cells(old, width), _cells(new, width)
    return runs([at for at in range(width) if before[at] != after[at]])


def runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Rising places as runs; neighbours are joined where a new run would cost more than what lies between."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and place - found[-1][1] < JOINED:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return found


def _cells(line: Text, width: int) -> list[tuple[str, object]]:
    """Every cell's character and ink, blank to the right of the line."""
    inks: list[object] = [line.style] * len(line.plain)
    for span in line.spans:
        inks[span.start : span.end] = [(ink, span.style) for ink in inks[span.start : span.end]]
    return [*zip(line.plain, inks, strict=True), *[(" ", "")] * (width - len(inks))]
