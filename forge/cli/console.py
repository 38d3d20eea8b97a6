"""What the commands print: tables and JSON on stdout, remarks on stderr.

Text from outside is made harmless here, on its way out; JSON is plain ASCII and never contains a bare NaN.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from forge.text import clean, clean_lines


def say(text: str) -> None:
    """A remark for a person, on stderr."""
    # That nobody reads the remarks must not cost the answer on stdout.
    with contextlib.suppress(OSError):
        print(clean_lines(text), file=sys.stderr, flush=True)


def put(text: str) -> None:
    """A line of the answer, on stdout."""
    print(clean_lines(text))


def put_json(value: Any) -> None:
    """The answer as one JSON document on stdout."""
    print(json.dumps(portable(value), indent=1, allow_nan=False, default=str))


def put_json_line(value: Any) -> None:
    """One JSON document on a line of its own, at once."""
    print(json.dumps(portable(value), allow_nan=False, default=str), flush=True)


def portable(value: Any) -> Any:
    """`value` with NaN and infinities as strings, which JSON lacks; spelled as in Protocol Buffers."""
    if isinstance(value, Mapping):
        return {str(key): portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def put_table(rows: Sequence[Sequence[str]], heads: Sequence[str] = (), right: Sequence[int] = ()) -> None:
    """Rows in aligned columns; the columns numbered in `right` are aligned to the right."""
    for line in table(rows, heads, right):
        print(line)


def table(rows: Sequence[Sequence[str]], heads: Sequence[str] = (), right: Sequence[int] = ()) -> list[str]:
    """The lines of `put_table`."""
    from rich.cells import cell_len

    cleaned = [[clean(cell) for cell in row] for row in ([heads, *rows] if heads else rows)]
    if not cleaned:
        return []
    widths = [max(cell_len(row[i]) for row in cleaned) for i in range(len(cleaned[0]))]

    def padded(cell: str, column: int) -> str:
        blanks = " " * (widths[column] - cell_len(cell))
        return blanks + cell if column in right else cell + blanks

    return ["  ".join(padded(cell, i) for i, cell in enumerate(row)).rstrip() for row in cleaned]
