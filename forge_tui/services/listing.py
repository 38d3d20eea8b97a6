"""One page of the list of sessions at a time, filtered and sorted by SQL."""

from __future__ import annotations

from forge.errors import ForgeError
from forge.registry import Error, SessionRow, cleanup, queries
from forge.registry.cleanup import grouped
from forge_tui.services.store import Store
from forge_tui.state import ORDERS, ListQuery, Page

PAGE = 200


class SessionLister:
    """Reads the page that the list looks at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: tuple[ListQuery, int] | None = None

    def touch(self) -> None:
        """Read again at the next look."""
        self._read = None

    async def read(self, query: ListQuery, offset: int) -> Page[SessionRow] | None:
        """The page that begins at `offset`; none when it is at hand already and nothing has moved."""
        registry = self._store.registry
        _, column, descending = ORDERS[query.order]
        try:
            moved = await registry.changed()
            if not moved and self._read == (query, offset):
                return None
            total = await registry.one(queries.count_sessions(query.search)) or 0
            rows = await registry.fetch(
                queries.sessions(
                    limit=PAGE,
                    offset=offset,
                    search=query.search,
                    order=column,
                    descending=descending,
                )
            )
            tagged = await registry.fetch(cleanup.tags([row.id for row in rows]))
        except (Error, ForgeError) as error:
            self._read = None
            return Page(query=query, problem=f"the registry cannot be read: {error}")
        self._read = (query, offset)
        return Page(tuple(rows), offset, total, query, tags=grouped(tagged))
