"""The last door before a terminal that is not UTF-8: every character beyond ASCII gets a stand-in.

A stand-in covers as many cells as what it replaces, so nothing moves.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_STAND_INS = {
    **dict.fromkeys("─━═╌┄╍▔▁▂⎯▀▄", "-"),
    **dict.fromkeys("│┃║▏▎▍▌▐▕▊▋▉╎", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛╔╗╚╝", "+"),
    **dict.fromkeys("█▇▆▅", "#"),
    "▓": "%", "▒": "=", "░": ".",
    "…": "~", "·": "-", "•": "o", "×": "x", "→": ">", "←": "<", "↑": "^", "↓": "v", "▲": "^", "▼": "v",
    "▶": ">", "▴": "^", "▾": "v", "▸": ">", "✓": "+", "✗": "x", "■": "#", "□": ".", "‖": "=", "⟲": "r",
    "○": "o", "●": "o", "λ": "l", "≈": "~", "≤": "<", "≥": ">", "—": "-", "–": "-", "◆": "*",
}  # fmt: skip


def to_ascii(text: str) -> str:
    """`text` with every character outside ASCII replaced, as wide as before."""
    if text.isascii():
        return text
    return "".join(char if char.isascii() else _STAND_INS.get(char, "?" * cell_len(char)) for char in text)


class AsciiFilter(LineFilter):
    """Keeps every line of the application inside ASCII."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Replace what an ASCII terminal cannot show."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]
