"""A read as a value: SQL, parameters and how a row becomes an object.

The same query runs on a plain connection and on an asynchronous one; both fetch every row and close the
cursor inside one function, because a forgotten cursor keeps the write-ahead log from being emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from forge.registry.sqlite import Connection

T = TypeVar("T")


@dataclass(frozen=True)
class Query(Generic[T]):
    """One bounded SELECT."""

    sql: str
    parameters: tuple[Any, ...]
    read: Callable[[Sequence[Any]], T]
    """Turns one row (a plain tuple) into the result."""


def fetch(connection: Connection, query: Query[T]) -> list[T]:
    """All rows of a query."""
    cursor = connection.execute(query.sql, query.parameters)
    try:
        rows = cursor.fetchall()
    finally:
        cursor.close()
    return [query.read(row) for row in rows]


async def afetch(connection: Any, query: Query[T]) -> list[T]:
    """All rows of a query on an aiosqlite connection."""
    rows = await connection.execute_fetchall(query.sql, query.parameters)
    return [query.read(row) for row in rows]
