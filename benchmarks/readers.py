"""Readers in which the screen's own service looks, without a screen, in processes of their own.

Every error that SQLite gives a reader is kept, also those that the service would forgive.

    python -m benchmarks.readers HOME SESSION     # then lines on stdin: go, rest; a closed stdin ends it
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TypeVar

from benchmarks.children import Child
from forge.home import Home
from forge.registry import Error, Query
from forge.validate import readers
from forge.validate.readers import Report, serve
from forge_tui.services.feed import SessionFeed
from forge_tui.services.store import Source, Store

T = TypeVar("T")


class Readers(readers.Readers):
    """`count` screens without a screen."""

    def __init__(self, home: Home, session_id: str, count: int) -> None:
        super().__init__(home, session_id, count, Child, "benchmarks.readers")


class _Watched(Source):
    """A source that keeps what went wrong."""

    def __init__(self, path: Path | None, errors: list[str]) -> None:
        super().__init__(path)
        self._errors = errors

    async def changed(self) -> bool:
        """See `Source.changed`."""
        try:
            return await super().changed()
        except Error as error:
            self._errors.append(str(error))
            raise

    async def fetch(self, query: Query[T]) -> list[T]:
        """See `Source.fetch`."""
        try:
            return await super().fetch(query)
        except Error as error:
            self._errors.append(str(error))
            raise


class _Service:
    def __init__(self, root: Path, session_id: str, errors: list[str]) -> None:
        home = Home(root)
        self._session_id = session_id
        self._store = Store(home)
        self._store.registry = _Watched(home.registry, errors)
        self._store.metrics = _Watched(None, errors)
        self._feed = SessionFeed(self._store, time.time)

    async def look(self) -> bool:
        """See `Looker.look`."""
        if self._feed.session_id is None:
            await self._feed.attach(self._session_id)
        return await self._feed.read(hosted=None) is not None

    async def close(self) -> None:
        """See `Looker.close`."""
        await self._store.close()


if __name__ == "__main__":
    found = Report()
    asyncio.run(serve(_Service(Path(sys.argv[1]), sys.argv[2], found.errors), found))
