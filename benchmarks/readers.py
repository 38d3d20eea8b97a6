"""Readers of a session: processes in which the screen's own service polls at 4 Hz, without a screen.

Every error that SQLite gives a reader is kept, also those that the service would forgive.

    python -m benchmarks.readers HOME SESSION     # then lines on stdin: go, rest; a closed stdin ends it
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.children import Child
from forge.home import Home
from forge.registry import Error, Query
from forge_tui.services.feed import SessionFeed
from forge_tui.services.store import Source, Store

T = TypeVar("T")
POLLS_A_SECOND = 4


@dataclass
class Report:
    """What one reader did so far."""

    polls: int = 0
    snapshots: int = 0
    """Polls that found something new."""
    errors: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0
    """Processor time of polling."""


class Readers:
    """`count` readers of one session, all at rest until some are asked to work."""

    def __init__(self, home: Home, session_id: str, count: int) -> None:
        self._stack = ExitStack()
        with ExitStack() as started:
            self._children = [
                started.enter_context(Child("benchmarks.readers", home.root, session_id))
                for _ in range(count)
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

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


class _Reader:
    def __init__(self, root: Path, report: Report) -> None:
        home = Home(root)
        self.store = Store(home)
        self.store.registry = _Watched(home.registry, report.errors)
        self.store.metrics = _Watched(None, report.errors)
        self.feed = SessionFeed(self.store, time.time)
        self.report = report

    async def poll(self, rest: asyncio.Event) -> None:
        """As the screen does it, until asked to rest."""
        before = time.process_time()
        while not rest.is_set():
            snapshot = await self.feed.read(hosted=None)
            self.report.polls += 1
            self.report.snapshots += snapshot is not None
            # Readers that began together must not stay in step.
            wait = random.uniform(0.9, 1.1) / POLLS_A_SECOND
            await asyncio.wait({asyncio.ensure_future(rest.wait())}, timeout=wait)
        self.report.cpu_seconds += time.process_time() - before


async def serve(root: Path, session_id: str) -> None:
    """Obey the lines on stdin."""
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    reader = _Reader(root, Report())
    await reader.feed.attach(session_id)
    await reader.feed.read(hosted=None)
    print("ready", flush=True)
    rest, polling = asyncio.Event(), asyncio.ensure_future(asyncio.sleep(0))
    while line := (await lines.readline()).decode().strip():
        if line == "go":
            rest = asyncio.Event()
            polling = asyncio.ensure_future(reader.poll(rest))
        elif line == "rest":
            rest.set()
            await polling
        print(json.dumps(asdict(reader.report)), flush=True)
    rest.set()
    await polling
    await reader.store.close()


def total(reports: Sequence[Report]) -> Report:
    """Several reports as one."""
    return Report(
        sum(report.polls for report in reports),
        sum(report.snapshots for report in reports),
        [error for report in reports for error in report.errors],
        sum(report.cpu_seconds for report in reports),
    )


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
