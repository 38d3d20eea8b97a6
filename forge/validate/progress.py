"""How far a proof is, as a line that a person reads and a screen understands."""

from __future__ import annotations

import re

_LINE = re.compile(r"(?P<proof>[a-z]+) +(?P<percent>\d{1,3})% (?P<doing>.*)\Z")


def line(proof: str, share: float, doing: str) -> str:
    """`wal 40% steps of the run, pair 2 of 10`."""
    return f"{proof} {round(100 * min(max(share, 0.0), 1.0))}% {doing}"


def parse(text: str) -> tuple[float, str] | None:
    """Share and doing of a line; none for any other text."""
    match = _LINE.match(text.rstrip())
    return (int(match["percent"]) / 100, match["doing"]) if match else None
