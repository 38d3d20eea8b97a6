"""One read-only database on the event loop of a screen.

Readers notice change by `PRAGMA data_version` and only then ask for rows; the connection is closed by the
screen that opened it, because an open one keeps the interpreter from ending.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from forge.registry.query import Query, afetch
from forge.registry.sqlite import connect_reader

T = TypeVar("T")


class Reader:
    """An open asynchronous reader."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._version: int | None = None

    @classmethod
    async def open(cls, path: Path) -> Reader:
        """Open a database read-only.

        Raises:
            Error: it is not there, or not a database.
        """
        return cls(await connect_reader(path))

    async def changed(self) -> bool:
        """Whether another connection committed since the last call; true the first time."""
        ((version,),) = await self._connection.execute_fetchall("PRAGMA data_version")
        moved = version != self._version
        self._version = version
        return moved

    async def fetch(self, query: Query[T]) -> list[T]:
        """All rows of a query."""
        return await afetch(self._connection, query)

    async def one(self, query: Query[T]) -> T | None:
        """The first row of a query, or none."""
        rows = await afetch(self._connection, query)
        return rows[0] if rows else None

    async def close(self) -> None:
        """Close the connection and end its thread."""
        await self._connection.close()
