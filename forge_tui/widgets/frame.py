"""A frame that sends only the cells that were marked.

Textual sends a part of a widget from the widget's left edge on, whatever the part: one digit at the end of a
line costs the whole line. What is cut here are whole characters, so a screen looks the same either way.
"""

from __future__ import annotations

from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate


class TightUpdate(ChopsUpdate):
    """The update of some spans of the screen, cropped on both sides."""

    @classmethod
    def of(cls, update: ChopsUpdate) -> TightUpdate:
        """The same update, without what was not asked for."""
        return cls(update.chops, update.spans, update.chop_ends)

    def render_segments(self, console: Console) -> str:
        """What is written to the terminal."""
        written: list[str] = []
        for y, first, last in self.spans:
            for end, (start, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                left, right = max(start, first), min(end, last)
                if strip is None or left >= right:
                    continue
                if len(strip.text) != strip.cell_length:
                    # A cut through a wide character would leave a hole.
                    left, right = start, end
                written.append(Control.move_to(left, y).segment.text)
                written.append(strip.crop(left - start, right - start).render(console))
        return "".join(written)
