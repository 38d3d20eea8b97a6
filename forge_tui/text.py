"""Text from outside, made fit for a terminal: the only door through which it may reach a widget.

Whatever a name, note, log line or error message contains, no control character, escape sequence,
direction mark or lone surrogate leaves this module; each is shown as the escape it is.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from forge.text import clean as clean
from forge.text import clean_lines as clean_lines

ELLIPSIS = "…"

Part = str | tuple[str, str] | Text
"""A piece of a line: bare text, text with the name of a style, or an already safe `Text`."""


def safe(text: object, width: int | None = None, style: str = "") -> Text:
    """One line of `text`, harmless and never read as markup, at most `width` cells wide.

    What cannot be printed is shown as an escape (`\\x1b`, `\\u202e`); what is cut ends in an ellipsis.
    """
    line = Text(clean(str(text)), style=style, no_wrap=True, end="")
    if width is not None:
        cut(line, width)
    return line


def safe_lines(text: object, width: int | None = None, limit: int = 50) -> list[Text]:
    """The lines of a message that may have several, each made safe; at most `limit` of them."""
    lines = str(text).splitlines() or [""]
    shown = [safe(line, width) for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(safe(f"({len(lines) - limit} more lines)", width))
    return shown


def compose(*parts: Part, width: int | None = None) -> Text:
    """One line out of several parts, all of them made safe."""
    line = Text(no_wrap=True, end="")
    for part in parts:
        if isinstance(part, Text):
            line.append_text(part)
        elif isinstance(part, tuple):
            line.append(clean(part[0]), part[1])
        else:
            line.append(clean(part))
    if width is not None:
        cut(line, width)
    return line


def cut(line: Text, width: int) -> None:
    """Shorten `line` in place to at most `width` cells."""
    if width <= 0:
        line.truncate(0)
    elif line.cell_len > width:
        line.truncate(width - 1)
        end = len(line.plain)
        line.append(ELLIPSIS, next((span.style for span in reversed(line.spans) if span.end >= end), ""))


def pad(line: Text, width: int) -> Text:
    """`line` cut or filled with blanks to exactly `width` cells."""
    cut(line, width)
    line.pad_right(max(0, width - line.cell_len))
    return line


def join_ends(left: Text, right: Text, width: int) -> Text:
    """`left` and `right` at the two ends of a line; the left one gives way when there is no room."""
    room = width - right.cell_len
    if room < 8:
        return pad(left, width)
    return pad(left, room).append_text(right)


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells, broken between words; a longer word is left to be cut. Never empty."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def cells(text: str) -> int:
    """How many terminal cells `text` covers."""
    return cell_len(text)
