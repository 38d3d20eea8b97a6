"""The read-only databases of the screens: one reader for the registry, one for the metrics on show.

Readers are opened late, counted, and closed by whoever unmounts: an open one keeps the interpreter alive.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from forge.home import Home
from forge.registry import Error, Query, Reader

T = TypeVar("T")


class Store:
    """Readers of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.registry = Source(home.registry)
        self.metrics = Source(None)

    async def close(self) -> None:
        """Close every connection; safe to call twice."""
        await self.registry.close()
        await self.metrics.close()


class Source:
    """One database that may not exist yet."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._reader: Reader | None = None
        self._peeked = False
        self.statements = 0
        """SQL statements sent so far; a budget test counts them."""

    async def point_at(self, path: Path | None) -> None:
        """Read another file from now on."""
        if path != self._path:
            await self.close()
            self._path = path

    async def changed(self) -> bool:
        """Whether somebody committed since the last call; False while the file does not exist.

        Raises:
            Error: the file cannot be read.
        """
        peeked, self._peeked = self._peeked, False
        reader = await self._open()
        if reader is None:
            return False
        self.statements += 1
        return await reader.changed() or peeked

    async def peek(self) -> bool:
        """The same, for somebody who does not read what changed: the next call of `changed` still says so."""
        self._peeked = await self.changed()
        return self._peeked

    async def fetch(self, query: Query[T]) -> list[T]:
        """All rows of a query; none while the file does not exist."""
        reader = await self._open()
        if reader is None:
            return []
        self.statements += 1
        return await reader.fetch(query)

    async def one(self, query: Query[T]) -> T | None:
        """The first row of a query, or none."""
        return next(iter(await self.fetch(query)), None)

    async def close(self) -> None:
        """Close the connection; the next call opens it again."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def _open(self) -> Reader | None:
        if self._reader is None and self._path is not None and self._path.exists():
            self._reader = await Reader.open(self._path)
        return self._reader


__all__ = ["Error", "Source", "Store"]
