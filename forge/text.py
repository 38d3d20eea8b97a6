"""Text from outside, made harmless on a terminal.

No control character, escape sequence, direction mark or lone surrogate leaves `clean`: each is shown as
the escape it is. Neither does a character that takes no room and shows nothing, nor a pile of accents that
would grow over the lines around it.
"""

from __future__ import annotations

import re
from typing import Literal
from unicodedata import category

Alert = Literal["bell", "osc9", "none"]

_SHORT = {"\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v", "\0": "\\0"}
_MOST_MARKS = 6
"""On one character; what people write has fewer."""
# Python calls these printable, and a terminal prints nothing: fillers, joiners and selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def clean(text: str) -> str:
    """`text` with everything unprintable replaced by a visible escape; the result is one line."""
    if text.isascii() and text.isprintable():
        return text
    # The first one has nothing to stand on but what the line had before.
    shown, marks = [], _MOST_MARKS
    for char in text:
        if not char.isprintable() or _INVISIBLE.match(char):
            shown.append(_escape(char))
            marks = 0
        elif _is_mark(char):
            shown.append(char if marks < _MOST_MARKS else _escape(char))
            marks += 1
        else:
            shown.append(char)
            marks = 0
    return "".join(shown)


def clean_lines(text: str) -> str:
    """`text` with its lines kept apart and each of them made harmless."""
    return "\n".join(clean(line) for line in text.split("\n"))


def _is_mark(char: str) -> bool:
    """Whether it stands on the character before it and takes no cell of its own."""
    # Vowels and finals of Korean syllables, written apart, are letters to Unicode.
    return category(char) in ("Mn", "Me") or "\u1160" <= char <= "\u11ff" or "\ud7b0" <= char <= "\ud7ff"


def alert(how: Alert, text: str) -> str:
    """What makes a terminal call its person: the bell, or a notice on the desktop (OSC 9); maybe nothing."""
    # Of what is in `text` nothing can end the notice, or begin another.
    return {"bell": "\a", "osc9": f"\x1b]9;Forge: {clean(text)}\a", "none": ""}[how]


def _escape(char: str) -> str:
    code = ord(char)
    # A tab's width depends on its column, exotic blanks look like nothing: a plain blank is what is meant.
    if char == "\t" or category(char) == "Zs":
        return " "
    if char in _SHORT:
        return _SHORT[char]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
