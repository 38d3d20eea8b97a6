"""One row or an error that says so, for functions that change the registry.

What is found here is read inside the caller's transaction, so it is still true when the change is made.
"""

from __future__ import annotations

from forge.errors import NotFoundError, RegistryError
from forge.registry import queries
from forge.registry.query import Query, T, clean, fetch
from forge.registry.rows import SessionRow
from forge.registry.sqlite import Connection


def get_session(c: Connection, session_id: str) -> SessionRow:
    """One session.

    Raises:
        NotFoundError: there is none with this id.
    """
    return require(c, queries.session(session_id), f"session {clean(session_id)}")


def require(c: Connection, query: Query[T], what: str) -> T:
    """The first row of a query.

    Raises:
        NotFoundError: there is none; the message names `what`.
    """
    found = fetch(c, query)
    if not found:
        raise NotFoundError(f'there is no {what}. "forge sessions" lists what there is.')
    return found[0]


def row_id(value: int | None) -> int:
    """The id of the row that an INSERT has just made, from its cursor."""
    if value is None:
        raise RegistryError("SQLite gave no id for a new row; nothing was written.")
    return value
