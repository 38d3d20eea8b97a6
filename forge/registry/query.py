"""A bounded read: SQL, its parameters, and how a row of the answer becomes a value.

Running one fetches every row and closes its cursor: one forgotten cursor pins the WAL, which then grows
without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from forge.registry.sqlite import Connection, DatabaseError

if TYPE_CHECKING:
    from forge.registry.sqlite import AsyncConnection

T = TypeVar("T")

MAX_LIMIT = 1_000_000
_MAX_INTEGER = (1 << 63) - 1


@dataclass(frozen=True)
class Query(Generic[T]):
    """One SELECT. `read` gets a row as a tuple, in the order of the columns."""

    sql: str
    params: Sequence[Any]
    read: Callable[[tuple[Any, ...]], T]


def fetch(connection: Connection, query: Query[T]) -> list[T]:
    """All rows of a query."""
    with _told():
        cursor = connection.execute(query.sql, query.params)
        try:
            rows = cursor.fetchall()
        finally:
            cursor.close()
    return _values(query, rows)


async def afetch(connection: AsyncConnection, query: Query[T]) -> list[T]:
    """All rows of a query, read on the connection's own thread."""
    # One hop runs and exhausts the statement: a cancelled await cannot leave it open half-way.
    with _told():
        rows = await connection.execute_fetchall(query.sql, query.params)
    return _values(query, [tuple(row) for row in rows])


@contextmanager
def _told() -> Iterator[None]:
    """A damaged schema makes the driver fail over the text of SQLite's own message."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DatabaseError("malformed database schema") from error


def _values(query: Query[T], rows: Sequence[tuple[Any, ...]]) -> list[T]:
    try:
        return [query.read(row) for row in rows]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        # Intact pages may hold what no Forge has written.
        what = " ".join(str(error).split())
        raise DatabaseError(f"malformed row: {what:.200}") from error


def clean(text: str) -> str:
    """Text as SQLite can keep it: lone surrogates and NUL are written out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def clean_or_none(text: str | None) -> str | None:
    """`clean`, with none left alone."""
    return None if text is None else clean(text)


def like(text: str) -> str:
    """Text as a literal inside a LIKE pattern with `ESCAPE '\\'`."""
    return clean(text).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def bounded(number: int, most: int = MAX_LIMIT) -> int:
    """A LIMIT between 0 and `most`; a negative LIMIT would mean none at all."""
    return min(max(number, 0), most)


def integer(number: int) -> int:
    """The nearest 64-bit integer; SQLite has no longer ones."""
    return min(max(number, -_MAX_INTEGER - 1), _MAX_INTEGER)
