"""The engine of one command over the home that a person chose.

A command that only looks never creates a home: a mistyped folder is reported, not made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from forge.cli.console import say
from forge.errors import NotFoundError
from forge.home import resolve_home

if TYPE_CHECKING:
    from forge.engine import Engine


@contextmanager
def engine_of(home: Path | None, *, create: bool = False) -> Iterator[Engine]:
    """Open the engine, and close it at the end.

    Raises:
        NotFoundError: there is no registry in the home, and none is to be made.
        HomeError: the home cannot be used.
        RegistryError: the registry is damaged or not Forge's.
    """
    resolved = resolve_home(home)
    if not create and not resolved.registry.exists():
        raise NotFoundError(f'there is no session in {resolved.root}; start one with "forge run tiny".')
    from forge.engine import Engine

    engine = Engine(resolved)
    try:
        if engine.registry.notice:
            say(engine.registry.notice)
        yield engine
    finally:
        engine.shutdown()
