"""Writers to a registry in processes of their own: each adds one to a number that all of them share.

A number that was read, raised and written back tells lost updates from kept ones, and `BEGIN IMMEDIATE` from
the plain `BEGIN`, whose transaction cannot become a writing one once somebody else has committed.

    python -m forge.validate.writers HOME SESSION plain|immediate   # then lines on stdin: go, rest
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from forge.errors import RegistryError
from forge.home import Home
from forge.registry import Connection, Error, Registry, edits, open_writer
from forge.registry.registry import WAL_AUTOCHECKPOINT
from forge.validate.child import Child

PAUSE_SECONDS = 0.01
"""Between two transactions, at most: much more than people and programs write."""
Begin = Literal["plain", "immediate"]
Transact = Callable[[Callable[[Connection], None]], None]


@dataclass
class Written:
    """What one writer did so far."""

    done: int = 0
    """Transactions that were acknowledged."""
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """How long each acknowledged one took."""


class Writers:
    """Some writers to one session, all at rest until they are asked to work."""

    def __init__(self, home: Home, session_id: str, begins: Sequence[Begin]) -> None:
        with ExitStack() as started:
            self._children = [
                started.enter_context(Child("forge.validate.writers", home.root, session_id, begin))
                for begin in begins
            ]
            self._stack = started.pop_all()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let them write meanwhile."""
        for child in self._children:
            child.ask("go")
        try:
            yield
        finally:
            for child in self._children:
                child.ask("rest")

    def total(self) -> Written:
        """What all of them did so far."""
        reports = [Written(**json.loads(child.ask("report"))) for child in self._children]
        return Written(
            sum(report.done for report in reports),
            [error for report in reports for error in report.errors],
            [seconds for report in reports for seconds in report.seconds],
        )

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class _Writing(threading.Thread):
    """Transactions until told to rest."""

    def __init__(self, home: Home, session_id: str, begin: Begin, report: Written) -> None:
        super().__init__(name="writing", daemon=True)
        self._home, self._session_id, self._begin, self._report = home, session_id, begin, report
        self._rest = threading.Event()

    def run(self) -> None:
        """As fast as it is allowed to."""
        with _registry(self._home) if self._begin == "immediate" else _plain(self._home) as transact:
            while not self._rest.is_set():
                self._one(transact)
                self._rest.wait(random.uniform(0, PAUSE_SECONDS))

    def _one(self, transact: Transact) -> None:
        start = time.perf_counter()
        try:
            transact(lambda c: raise_number(c, self._session_id))
        except (Error, RegistryError) as error:
            self._report.errors.append(str(error))
        else:
            self._report.done += 1
            self._report.seconds.append(round(time.perf_counter() - start, 6))

    def rest(self) -> None:
        """Finish the transaction, and end."""
        self._rest.set()
        self.join()


def raise_number(c: Connection, session_id: str) -> None:
    """Add one to the number in the note of a session."""
    number = int(edits.get_session(c, session_id).note or 0)
    edits.set_note(c, session_id, str(number + 1), time.time())


@contextmanager
def _registry(home: Home) -> Iterator[Transact]:
    """As every program of Forge writes."""
    with Registry.open(home) as registry:
        yield registry.write


@contextmanager
def _plain(home: Home) -> Iterator[Transact]:
    """The same connection, with the transaction that it is never given otherwise."""
    connection = open_writer(home.registry, synchronous="FULL", wal_autocheckpoint=WAL_AUTOCHECKPOINT)

    def transact(body: Callable[[Connection], None]) -> None:
        connection.execute("BEGIN")
        try:
            body(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    try:
        yield transact
    finally:
        connection.close()


def serve(home: Home, session_id: str, begin: Begin) -> None:
    """Obey the lines on stdin."""
    report = Written()
    writing: _Writing | None = None
    _answer("ready")
    for line in sys.stdin:
        if line.strip() == "go":
            writing = _Writing(home, session_id, begin, report)
            writing.start()
        elif line.strip() == "rest" and writing is not None:
            writing.rest()
            writing = None
        _answer(json.dumps(asdict(report)) if writing is None else "writing")
    if writing is not None:
        writing.rest()


def _answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(Home(Path(sys.argv[1])), sys.argv[2], "plain" if sys.argv[3] == "plain" else "immediate")
