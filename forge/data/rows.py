"""Corpora whose documents are rows of files: JSON lines, and one column of Parquet files.

Files are read row by row, a broken or huge row is skipped and counted, and nothing in them is ever executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from forge.data.documents import Document, Skipped, Source, UnusableError, require_text
from forge.data.files import find_files, open_regular, require_regular
from forge.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow

MAX_ROW_BYTES = 16 * 2**20
"""A longer line or text is skipped and counted."""
MAX_COLUMN_BYTES = 2**31
"""Most bytes of one column in one row group: a small file can unpack to any size."""
FIELD = "text"
"""The field or column that is read where none is named."""
LICENCE = "unknown (your own files)"


def open_jsonl(spec: str, skipped: Skipped) -> Source:
    """`jsonl:GLOB[#field]`: each line is a JSON object with its text in one field."""
    pattern, field = split_field(spec.partition(":")[2])
    return Source(LICENCE, _all_lines(spec, pattern, field, skipped))


def open_parquet(spec: str, skipped: Skipped) -> Source:
    """`parquet:GLOB[#column]`: each value of one column of strings is a document."""
    pattern, column = split_field(spec.partition(":")[2])
    require_pyarrow(spec)
    return Source(LICENCE, _all_values(spec, pattern, column, skipped))


def split_field(argument: str) -> tuple[str, str]:
    """What is read, and the field after the last `#`; a file that is really called so keeps its name."""
    before, mark, after = argument.rpartition("#")
    try:
        literal = not mark or Path(argument).expanduser().exists()
    except (ValueError, RuntimeError, OSError):
        literal = False  # Whoever opens it says what is wrong.
    return (argument, FIELD) if literal else (before, after or FIELD)


def row_text(value: object, field: str) -> bytes:
    """A field's value as a document's bytes; else raises `UnusableError`."""
    if not isinstance(value, str):
        raise UnusableError(f"without text in {field}")
    try:
        data = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableError("not UTF-8") from error  # Half a surrogate pair, which JSON can write.
    if len(data) > MAX_ROW_BYTES:
        raise UnusableError(f"larger than {MAX_ROW_BYTES // 2**20} MiB")
    return require_text(data)


def _all_lines(spec: str, pattern: str, field: str, skipped: Skipped) -> Iterator[Document]:
    for name, path in find_files(spec, pattern):
        try:
            require_regular(path)
            with open_regular(path) as file:
                yield from _lines(name, file, field, skipped)
        except UnusableError as error:
            skipped.add(error.reason, name)
        except OSError:
            skipped.add("unreadable", name)


def _lines(name: str, file: BinaryIO, field: str, skipped: Skipped) -> Iterator[Document]:
    left = os.fstat(file.fileno()).st_size  # What is appended meanwhile is not waited for.
    number = 0
    while left > 0 and (line := file.readline(MAX_ROW_BYTES + 1)):
        number += 1
        left -= len(line)
        where = f"{name}:{number}"
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            left -= _skip_line(file)
            skipped.add(f"larger than {MAX_ROW_BYTES // 2**20} MiB", where)
            continue
        if not line.strip():
            continue
        try:
            yield Document.of(where, row_text(_field(line, field), field))
        except UnusableError as error:
            skipped.add(error.reason, where)


def _skip_line(file: BinaryIO) -> int:
    passed = 0
    while piece := file.readline(MAX_ROW_BYTES):
        passed += len(piece)
        if piece.endswith(b"\n"):
            break
    return passed


def _field(line: bytes, field: str) -> object:
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise UnusableError("not a line of JSON") from error
    return row.get(field) if isinstance(row, dict) else None


def require_pyarrow(spec: str) -> None:
    """Refuse where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise CorpusError(
            f"corpus {spec}: reading it needs pyarrow. Install it: pip install 'forge-tui[data]'."
        ) from error


def _all_values(spec: str, pattern: str, column: str, skipped: Skipped) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    for name, path in find_files(spec, pattern):
        try:
            require_regular(path)
            with open_regular(path) as file, pyarrow.parquet.ParquetFile(file) as table:
                _require_column(spec, name, table, column)
                yield from _values(name, table, column, skipped)
        except UnusableError as error:
            skipped.add(error.reason, name)
        except pyarrow.ArrowException:
            skipped.add("not Parquet, or damaged", name)
        except OSError:
            skipped.add("unreadable or damaged", name)


def _require_column(spec: str, name: str, table: Any, column: str) -> None:
    import pyarrow.types as kinds

    schema: pyarrow.Schema = table.schema_arrow
    texts = [
        field.name for field in schema if kinds.is_string(field.type) or kinds.is_large_string(field.type)
    ]
    if column not in texts:
        raise CorpusError(
            f"corpus {spec}: {name} has no column of text called {column}; it has "
            f"{', '.join(texts) or 'none'}. Name one after #."
        )
    index = schema.names.index(column)
    for group in range(table.metadata.num_row_groups):
        chunk = table.metadata.row_group(group).column(index)
        if chunk.total_uncompressed_size > MAX_COLUMN_BYTES:
            raise UnusableError("a row group too large to unpack")


def _values(name: str, table: Any, column: str, skipped: Skipped) -> Iterator[Document]:
    number = 0
    for batch in table.iter_batches(batch_size=256, columns=[column], use_threads=False):
        for value in batch.column(0):
            number += 1
            where = f"{name}:{number}"
            try:
                yield Document.of(where, row_text(_python(value), column))
            except UnusableError as error:
                skipped.add(error.reason, where)


def _python(value: Any) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise UnusableError("not UTF-8") from error
