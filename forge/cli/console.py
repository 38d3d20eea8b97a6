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


def say(*lines: str) -> None:
    """A remark for a person, on stderr; nothing that stands in a line can begin another."""
    # That nobody reads the remarks must not cost the answer on stdout.
    with contextlib.suppress(OSError):
        print("\n".join(map(clean, lines)), file=sys.stderr, flush=True)


def put(*lines: str) -> None:
    """Lines of the answer, on stdout."""
    print("\n".join(map(clean, lines)))


def put_text(text: str) -> None:
    """Text that may have many lines, or none yet: as it is for a program, harmless on a terminal."""
    print(clean_lines(text) if sys.stdout.isatty() else text, end="", flush=True)


def put_json(value: Any) -> None:
    """The answer as one JSON document on stdout."""
    print(_json(value, indent=1))


def put_json_line(value: Any) -> None:
    """One JSON document on a line of its own, at once."""
    print(_json(value), flush=True)


def _json(value: Any, indent: int | None = None) -> str:
    # DEL is the one control character that JSON takes for text.
    return json.dumps(portable(value), indent=indent, allow_nan=False, default=str).replace("\x7f", "\\u007f")


def portable(value: Any) -> Any:
    """`value` as every reader of JSON takes it.

    NaN and infinities, which JSON lacks, become strings, spelled as in Protocol Buffers; half a surrogate
    pair, which strict readers refuse, is written out.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {portable(str(key)): portable(item) for key, item in value.items()}
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
