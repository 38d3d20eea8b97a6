"""Homes with real folders and rows in any state, and a crash or an error at any effect of an operation."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from forge import durable
from forge.config import dump_yaml, load_config
from forge.home import Home
from forge.registry import (
    CandidateRow,
    Connection,
    ModelRow,
    Registry,
    SessionRow,
    State,
    cleanup,
    edits,
    sqlite,
)
from forge.retention import Subject
from forge.retention.policy import DAY

NOW = 1_800_000_000.0
YAML = dump_yaml(load_config("tiny")).encode()
ENDED = (State.COMPLETED, State.FAILED, State.STOPPED, State.INTERRUPTED)


def session_id(number: int) -> str:
    """The id of a session made at `number` seconds after the first."""
    return str(ULID.from_bytes((1_790_000_000_000 + number * 1000).to_bytes(6, "big") + bytes(10)))


def subject(number: int, state: State = State.COMPLETED, days: float = 1.0, **fields: Any) -> Subject:
    """A session as a survey finds it, that ended so many days ago."""
    ended = None if state not in ENDED else NOW - days * DAY
    row = SessionRow(
        id=session_id(number), name=f"s{number}", state=state, preset="tiny", created_at=float(number),
        updated_at=NOW - days * DAY, ended_at=ended, phase=None, error=None, note="",
        pinned=fields.pop("pinned", False), lease=None, owner=None,
    )  # fmt: skip
    tags = fields.pop("tags", ())
    restored_at = fields.pop("restored_at", None)
    candidate = CandidateRow(session=row, tags=tags, has_checkpoint=False, restored_at=restored_at)
    return Subject(candidate, **{"bytes": 1000, **fields})


class World:
    """A home and its registry, and sessions made in one line."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._opened: list[Registry] = []
        self.registry = self.fresh()

    def fresh(self) -> Registry:
        """The registry as another process opens it."""
        self.registry = Registry.open(self.home)
        self._opened.append(self.registry)
        return self.registry

    def close(self) -> None:
        """Close every registry."""
        for registry in self._opened:
            registry.close()

    def add(
        self,
        number: int,
        state: State = State.COMPLETED,
        days: float = 1.0,
        *,
        parents: Sequence[int] = (),
        pinned: bool = False,
        tags: Sequence[str] = (),
        checkpoint: bool = False,
        size: int = 100,
    ) -> str:
        """A session with files, rows in every table, and one model that descends from those of `parents`."""
        id = session_id(number)
        at = NOW - days * DAY

        def rows(c: Connection) -> None:
            edits.create_session(c, id=id, name=f"s{number}", preset="tiny", phases=[("pretrain", 9)], now=at)
            edits.add_model(c, _model(id, number), {_model_id(parent): 1.0 for parent in parents})
            edits.add_event(c, id, kind="note", message="an event", now=at)
            if checkpoint:
                edits.add_checkpoint(c, id, phase="pretrain", step=4, path="checkpoints/pretrain/step-4",
                                     bytes=10, seconds=0.1, now=at)  # fmt: skip
            edits.set_pinned(c, id, pinned)
            cleanup.set_tags(c, id, tags, at)
            ended = at if state in ENDED else None
            c.execute(
                "UPDATE session SET state = ?, ended_at = ?, updated_at = ? WHERE id = ?",
                [str(state), ended, at, id],
            ).close()

        self.registry.write(rows)
        root = self.folder(id, size)
        if checkpoint:
            folder = root / "checkpoints" / "pretrain" / "step-00000004"
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_bytes(b"{}")
        return id

    def folder(self, id: str, size: int = 100, parent: Path | None = None) -> Path:
        """The files of a session."""
        root = (parent or self.home.sessions) / id
        (root / "models" / "m").mkdir(parents=True)
        (root / "session.yaml").write_bytes(YAML)
        (root / "lease").write_bytes(b"")
        (root / "models" / "m" / "model.safetensors").write_bytes(id.encode() * (size // 26 + 1))
        (root / "log.jsonl").write_bytes(b"{}\n")
        # Sorts behind the marker, which has to go last all the same.
        (root / "tail.bin").write_bytes(b"tail")
        return root

    def states(self) -> dict[str, State]:
        """Every session's state."""
        return dict(self.registry.fetch(cleanup.session_states()))

    def trashed(self) -> list[str]:
        """Ids in the trash, according to the registry."""
        return sorted(row.session_id for row in self.registry.fetch(cleanup.trash()))

    def rows(self, id: str) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of a session but its records in `audit`."""
        tables = {
            "session": "id", "phase_run": "session_id", "model": "session_id", "checkpoint": "session_id",
            "event": "session_id", "session_tag": "session_id", "trash": "session_id",
        }  # fmt: skip
        read = sqlite.open_reader(self.home.registry)
        try:
            return {t: read.execute(f"SELECT * FROM {t} WHERE {key} = ?", [id]).fetchall()
                    for t, key in tables.items()}  # fmt: skip
        finally:
            read.close()

    def agree(self) -> None:
        """Registry and folders say the same, and nothing is half done."""
        states, trashed = self.states(), set(self.trashed())
        assert {i for i, state in states.items() if state is State.TRASHED} == trashed
        assert all(not row.purging for row in self.registry.fetch(cleanup.trash()))
        assert set(names(self.home.trash)) == trashed
        assert set(names(self.home.sessions)) == states.keys() - trashed


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty home."""
    made = World(Home(tmp_path / "home"))
    yield made
    made.close()


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder, with mode and content; where a link leads is its content."""

    def content(path: Path) -> bytes:
        if path.is_symlink():
            return os.fsencode(path.readlink())
        return b"" if path.is_dir() else path.read_bytes()

    return {str(p.relative_to(folder)): (p.lstat().st_mode, content(p)) for p in sorted(folder.rglob("*"))}


class Crash(BaseException):
    """The process is gone."""


class Effects:
    """Counts effects on the disk, and ends the program, or fails the call, at the one that is asked for."""

    def __init__(self, at: int, error: Callable[[], BaseException]) -> None:
        self.at, self.error, self.count = at, error, 0

    def next(self) -> None:
        """One effect is about to happen."""
        self.count += 1
        if self.count == self.at:
            raise self.error()

    @property
    def struck(self) -> bool:
        """Whether the operation got as far as that."""
        return self.count >= self.at


FAULTS: dict[str, Callable[[], BaseException]] = {
    "crash": Crash,
    "EIO": lambda: OSError(errno.EIO, os.strerror(errno.EIO), "the disk"),
    "ENOSPC": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the disk"),
}


@contextmanager
def failing(at: int, fault: str) -> Iterator[Effects]:
    """Strike at the n-th effect inside the block."""
    effects = Effects(at, FAULTS[fault])

    def watch(kind: durable.Kind, do: Callable[[], Any], *subject: Any) -> Any:
        effects.next()
        return do()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "watcher", watch)
        yield effects


@contextmanager
def traced() -> Iterator[list[str]]:
    """What reaches the disk inside the block, in order: commits, and the names that are synced."""
    order: list[str] = []

    def watch(kind: durable.Kind, do: Callable[[], Any], *subject: Any) -> Any:
        if kind == "sync":
            order.append(Path(f"/proc/self/fd/{subject[0]}").readlink().name)
        elif kind == "commit":
            order.append("COMMIT")
        return do()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "watcher", watch)
        yield order


def _model_id(number: int) -> str:
    return f"model-{number}"


def _model(session: str, number: int) -> ModelRow:
    return ModelRow(
        id=_model_id(number), session_id=session, phase="pretrain", name="m", created_at=1.0, parameters=1,
        bytes=1, path="models/m", metrics={},
    )  # fmt: skip
