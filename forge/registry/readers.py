"""What the screens read with: one connection on its own thread, awaited from the event loop.

Never blocks the event loop, and never keeps a read transaction open between two calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from forge.registry import sqlite
from forge.registry.query import Query, T, afetch

if TYPE_CHECKING:
    from forge.registry.sqlite import AsyncConnection

_DATA_VERSION = Query("PRAGMA data_version", (), lambda row: int(row[0]))


class Reader:
    """Reads one database file, the registry or a session's metrics; `await Reader.open(path)` opens it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._version: int | None = None

    @classmethod
    async def open(cls, path: Path) -> Reader:
        """Open a database for reading.

        Raises:
            NotFoundError: there is no such file (a session that has not started has no metrics yet).
        """
        return cls(await sqlite.connect_reader(path))

    async def changed(self) -> bool:
        """Whether anyone has committed since the last call; true the first time."""
        version = (await afetch(self._connection, _DATA_VERSION))[0]
        changed = version != self._version
        self._version = version
        return changed

    async def fetch(self, query: Query[T]) -> list[T]:
        """All rows of a query. Raises `forge.registry.Error`, not aiosqlite's."""
        return await afetch(self._connection, query)

    async def one(self, query: Query[T]) -> T | None:
        """The first row of a query, or none."""
        rows = await self.fetch(query)
        return rows[0] if rows else None

    async def close(self) -> None:
        """Close the connection and end its thread; safe to call twice."""
        await self._connection.close()
