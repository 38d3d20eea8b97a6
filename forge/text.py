"""Text from outside, made harmless on a terminal.

No control character, escape sequence, direction mark or lone surrogate leaves `clean`: each is shown as
the escape it is.
"""

from __future__ import annotations

from unicodedata import category

_SHORT = {"\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v", "\0": "\\0"}


def clean(text: str) -> str:
    """`text` with everything unprintable replaced by a visible escape; the result is one line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def clean_lines(text: str) -> str:
    """`text` with its lines kept apart and each of them made harmless."""
    return "\n".join(clean(line) for line in text.split("\n"))


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
