"""Homes to crash: built once, copied for every attempt; and what a fresh process finds in one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from forge import durable
from forge.audit import Kind, audit
from forge.engine import Engine
from forge.engine.keeper import CannotSaveError
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import Connection, sqlite
from forge.retention import Reconciled, reconcile
from forge.validate.disk import Disk, Image
from tests.unit.faults import operations
from tests.unit.faults.operations import Operation

T = TypeVar("T")
LATER = 2 * 86_400.0
"""Seconds after which a fresh process looks: what nobody has recorded by then never will be."""
OUTLIVED = frozenset({Kind.OWNER, Kind.LEFTOVER})
"""What a cut leaves of an operation that had returned: its process is dead, and garbage may be back."""


@contextmanager
def without_waiting_for_the_medium() -> Iterator[None]:
    """For what is only looked at."""
    real = sqlite.open_writer

    def open_writer(path: Path, **recipe: Any) -> Connection:
        connection = real(path, **recipe)
        connection.execute("PRAGMA synchronous=OFF").close()
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "open_writer", open_writer)
        patch.setattr(durable, "_sync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a finished session and an interrupted one; never changed."""
    root = tmp_path_factory.mktemp("faults") / "home"
    with without_waiting_for_the_medium():
        operations.build(root)
    return root


@dataclass(frozen=True)
class Fault:
    """How a disk refuses."""

    number: int
    says: str
    """What SQLite makes of it."""
    refused: frozenset[durable.Kind]
    """What such a disk refuses."""

    def error(self, kind: durable.Kind) -> Exception:
        """What the one who asked gets."""
        if kind == "commit":
            return sqlite.OperationalError(self.says)
        return OSError(self.number, os.strerror(self.number), "the disk")


_GROWS: frozenset[durable.Kind] = frozenset({"create", "write", "sync", "rename", "link", "mkdir", "commit"})
FAULTS = {
    # To delete takes no room.
    "ENOSPC": Fault(errno.ENOSPC, "database or disk is full", _GROWS),
    "EIO": Fault(errno.EIO, "disk I/O error", _GROWS | {"unlink", "rmdir"}),
}


class Bench:
    """Runs operations on fresh homes, and looks at what is left."""

    def __init__(self, template: Path, folder: Path) -> None:
        self._template = template
        self._folder = folder
        self._count = 0

    def home(self, operation: Operation) -> Home:
        """A fresh home for an operation."""
        root = self._place()
        if operation.empty:
            root.mkdir(parents=True)
        else:
            shutil.copytree(self._template, root)
        return Home(root)

    def record(self, operation: Operation, *, skip: int | None = None, weak: str | None = None) -> Disk:
        """Run an operation to its end on a disk that can lose its power; see `Disk` for the rest."""
        home = self.home(operation)
        disk = Disk(home.root, skip, weak)
        with operation.program(), operation.start(home) as act, disk.recording():
            act()
        shutil.rmtree(home.root)
        return disk

    def kill_and_go_on(self, operation: Operation, at: int) -> tuple[bool, Disk]:
        """Kill it at its `at`-th effect, and let another process do it to its end; whether it was killed.

        What the first one did is still in the page cache, and not on the disk.
        """
        home = self.home(operation)
        disk = Disk(home.root)
        with disk.recording():
            with operation.start(home) as act:
                disk.dies_at = len(disk.effects) + at
                with contextlib.suppress(ForgeError, CannotSaveError, OSError, sqlite.Error):
                    act()
                died = disk.revive()
            with operation.start(home) as act:
                act()
        shutil.rmtree(home.root)
        return died, disk

    def after_a_cut(self, operation: Operation, image: Image) -> list[str]:
        """What is wrong once a fresh process has put right what the cut left."""
        root = image.write(self._place())
        try:
            return self.look(operation, Home(root), done=False)
        finally:
            shutil.rmtree(root)

    def after_its_end(self, operation: Operation, image: Image) -> list[str]:
        """What is wrong with a cut after the operation had returned, before anyone put anything right."""
        root = image.write(self._place())
        try:
            with operation.program():
                found = [f for f in audit(Home(root), time.time() + LATER).findings if f.kind not in OUTLIVED]
            return [str(finding) for finding in found] or self.look(operation, Home(root), done=True)
        finally:
            shutil.rmtree(root)

    def kinds(self, operation: Operation) -> list[durable.Kind]:
        """The effects of an operation that nobody disturbs."""
        seen: list[durable.Kind] = []

        def note(kind: durable.Kind, do: Callable[[], T], *subject: Any) -> T:
            seen.append(kind)
            return do()

        assert self._run(operation, note) == []
        return seen

    def fail(self, operation: Operation, at: int, fault: Fault, *, lasting: bool) -> list[str]:
        """Let the disk refuse the `at`-th effect, or all from then on; what is wrong afterwards."""
        count = 0

        def refuse(kind: durable.Kind, do: Callable[[], T], *subject: Any) -> T:
            nonlocal count
            count += 1
            if count == at or (lasting and count > at and kind in fault.refused):
                raise fault.error(kind)
            return do()

        return self._run(operation, refuse)

    def _run(self, operation: Operation, watcher: durable.Watcher) -> list[str]:
        home, returned = self.home(operation), False
        with (
            operation.program(),
            without_waiting_for_the_medium(),
            operation.start(home) as act,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(durable, "watcher", watcher)
            try:
                act()
                returned = True
            except (ForgeError, CannotSaveError, OSError, sqlite.Error):
                """The operation says that it could not."""
            patch.undo()
        wrong = self.look(operation, home, done=returned)
        shutil.rmtree(home.root)
        return wrong

    def look(self, operation: Operation, home: Home, *, done: bool) -> list[str]:
        """Open a home as a fresh process does, let it reconcile, and audit it."""
        later = time.time() + LATER
        try:
            with operation.program(), without_waiting_for_the_medium():
                engine = Engine(home)
                try:
                    engine.reconcile()
                    first = reconcile(home, engine.registry, later)
                    again = reconcile(home, engine.registry, later)
                    operation.check(engine, done)
                finally:
                    engine.shutdown()
        except (ForgeError, sqlite.Error, OSError, AssertionError) as error:
            return [f"{type(error).__name__}: {error}"]
        wrong = [f"a second look found {again}"] if again != Reconciled() else []
        with operation.program():
            return [*first.problems, *wrong, *map(str, audit(home, later).findings)]

    def _place(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count}" / "home"


@pytest.fixture
def bench(template: Path, tmp_path: Path) -> Bench:
    return Bench(template, tmp_path)
