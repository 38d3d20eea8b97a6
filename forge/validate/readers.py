"""Readers of a session in processes of their own, which look four times a second when they are told to.

Every error that SQLite gives a reader is kept, also those that a screen would forgive.

    python -m forge.validate.readers HOME SESSION     # then lines on stdin: go, rest; a closed stdin ends it
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, Self

from forge.home import Home
from forge.registry import Error, Reader, queries
from forge.validate.child import Child

LOOKS_A_SECOND = 4
_ROWS = 200


@dataclass
class Report:
    """What one reader did so far."""

    polls: int = 0
    snapshots: int = 0
    """Polls that found something new."""
    errors: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0
    """Processor time of polling."""


class Looker(Protocol):
    """Somebody who looks at a session."""

    async def look(self) -> bool:
        """One look; whether anything was new."""

    async def close(self) -> None:
        """Close what was opened."""


class Readers:
    """`count` readers of one session, all at rest until some are asked to work."""

    def __init__(
        self, home: Home, session_id: str, count: int, start: Callable[..., Child] = Child,
        module: str = "forge.validate.readers",
    ) -> None:  # fmt: skip
        self._stack = ExitStack()
        with ExitStack() as started:
            self._children = [
                started.enter_context(start(module, home.root, session_id)) for _ in range(count)
            ]
            self._stack = started.pop_all()

    @contextmanager
    def working(self, count: int) -> Iterator[None]:
        """Let some of them poll meanwhile; afterwards all are at rest again."""
        for child in self._children[:count]:
            child.ask("go")
        try:
            yield
        finally:
            for child in self._children[:count]:
                child.ask("rest")

    def reports(self) -> list[Report]:
        """What each of them did so far."""
        return [Report(**json.loads(child.ask("report"))) for child in self._children]

    def close(self) -> None:
        """End them; the errors that they met are in `reports`."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def total(reports: Sequence[Report]) -> Report:
    """Several reports as one."""
    return Report(
        sum(report.polls for report in reports),
        sum(report.snapshots for report in reports),
        [error for report in reports for error in report.errors],
        sum(report.cpu_seconds for report in reports),
    )


async def serve(looker: Looker, report: Report) -> None:
    """Obey the lines on stdin."""
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await looker.look()
    _answer("ready")
    rest, polling = asyncio.Event(), asyncio.ensure_future(asyncio.sleep(0))
    while line := (await lines.readline()).decode().strip():
        if line == "go":
            rest = asyncio.Event()
            polling = asyncio.ensure_future(_poll(looker, report, rest))
        elif line == "rest":
            rest.set()
            await polling
        _answer(json.dumps(asdict(report)))
    rest.set()
    await polling
    await looker.close()


async def _poll(looker: Looker, report: Report, rest: asyncio.Event) -> None:
    """As the screen does it, until asked to rest."""
    before = time.process_time()
    while not rest.is_set():
        report.snapshots += await looker.look()
        report.polls += 1
        # Readers that began together must not stay in step.
        wait = random.uniform(0.9, 1.1) / LOOKS_A_SECOND
        await asyncio.wait({asyncio.ensure_future(rest.wait())}, timeout=wait)
    report.cpu_seconds += time.process_time() - before


def _answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Watcher:
    """Reads what a screen shows of a session, without a screen: its rows, events, progress and curves."""

    def __init__(self, home: Home, session_id: str, errors: list[str]) -> None:
        self._home, self._session_id, self._errors = home, session_id, errors
        self._registry: Reader | None = None
        self._metrics: Reader | None = None

    async def look(self) -> bool:
        """See `Looker.look`."""
        try:
            return await self._look()
        except Error as error:
            self._errors.append(str(error))
            return False

    async def _look(self) -> bool:
        if self._registry is None or self._metrics is None:
            self._registry = await Reader.open(self._home.registry)
            self._metrics = await Reader.open(self._home.session(self._session_id).metrics)
        moved = await self._registry.changed()
        if moved:
            await self._registry.fetch(queries.session(self._session_id))
            await self._registry.fetch(queries.phase_runs(self._session_id))
            await self._registry.fetch(queries.latest_events(self._session_id, _ROWS))
        if await self._metrics.changed():
            moved = True
            await self._metrics.fetch(queries.heartbeat())
            for series in await self._metrics.fetch(queries.series()):
                seen = (series.last_step or 0) - _ROWS
                await self._metrics.fetch(queries.points_after(series.id, seen, _ROWS))
        return moved

    async def close(self) -> None:
        """See `Looker.close`."""
        for reader in (self._registry, self._metrics):
            if reader is not None:
                await reader.close()


if __name__ == "__main__":
    found = Report()
    asyncio.run(serve(Watcher(Home(Path(sys.argv[1])), sys.argv[2], found.errors), found))
