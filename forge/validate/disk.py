"""A disk that can lose its power: what a home may look like after a cut at any effect of an operation.

POSIX promises of a file what was fsynced, of a folder the names that it had when it was fsynced, and nothing
else: what came after may be there or not, in any order. One rename is whole or absent: what is renamed has
one of its two names, never both or none. A database keeps what was committed under synchronous=FULL. So two
things are kept of every inode: what it is now, and what is certain; an image is a home made of either, one
choice each.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from forge import durable
from forge.registry import sqlite

T = TypeVar("T")
Change = dict[str, int | None]
"""Names that one effect changed in a folder: the inode that it leads to now, none if it is gone."""
Place = tuple[int, str]
"""A folder's inode and a name in it."""
SIDECARS = ("-wal", "-shm", "-journal")
"""Belong to a database, whose content is known by its commits."""
RANDOM_IMAGES = 1


@dataclass(frozen=True)
class Image:
    """What lies below a home: by path the content of a file, none for a folder."""

    files: dict[str, bytes | None]
    at: int
    """How many effects were done before the cut; one more than there were where it came after the last."""
    kind: str
    """Which choice was made."""

    def write(self, root: Path) -> Path:
        """Make it real."""
        root.mkdir(mode=0o700, parents=True)
        for name, content in self.files.items():
            if content is None:
                (root / name).mkdir(mode=0o700)
            else:
                (root / name).write_bytes(content)
        return root

    @property
    def digest(self) -> bytes:
        """The same for the same content."""
        found = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            found.update(f"{name}\0{'folder' if content is None else len(content)}\0".encode())
            found.update(content or b"")
        return found.digest()


@dataclass
class Disk:
    """Watches every effect below `root` while `recording`; afterwards `images` is what cuts would leave."""

    root: Path
    skip: int | None = None
    """Number of the fsync that does nothing, counted from 1."""
    weak: str | None = None
    """The database of which no commit is durable, as under synchronous=NORMAL."""
    dies_at: int | None = None
    """Number of the effect from which on nothing happens any more, until `revive`: the process is gone."""
    effects: list[str] = field(default_factory=list)
    syncs: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    """Those under synchronous=FULL, by their database."""
    images: dict[bytes, Image] = field(default_factory=dict)
    final: list[Image] = field(default_factory=list)
    """Those of a cut after the operation has returned."""

    _pins: dict[int, int] = field(default_factory=dict)
    _folders: set[int] = field(default_factory=set)
    _now: dict[int, dict[str, int]] = field(default_factory=dict)
    _sure: dict[int, dict[str, int]] = field(default_factory=dict)
    _pending: dict[int, list[Change]] = field(default_factory=dict)
    _moved: dict[int, tuple[Place, Place]] = field(default_factory=dict)
    _paths: dict[int, Path] = field(default_factory=dict)
    _kept: dict[int, bytes] = field(default_factory=dict)
    _databases: dict[int, bytes] = field(default_factory=dict)
    _current: dict[int, bytes] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _draws: random.Random = field(default_factory=lambda: random.Random(3))

    @contextmanager
    def recording(self) -> Iterator[Disk]:
        """Take images at every effect inside the block, and after it."""
        self._begin()
        try:
            durable.watcher = self
            yield self
            durable.watcher = None
            self.final = self._take()
        finally:
            durable.watcher = None
            for pin in self._pins.values():
                os.close(pin)
            self._pins.clear()

    def __call__(self, kind: durable.Kind, do: Callable[[], T], *subject: Any) -> Any:
        """The watcher of `forge.durable`."""
        with self._lock:
            path = _path_of(kind, subject)
            if self.root not in (path, *path.parents):
                return do()
            if self.dies_at is not None and len(self.effects) + 1 >= self.dies_at:
                # Whoever is left of it only sees a disk that fails.
                raise sqlite.OperationalError("dead") if kind == "commit" else OSError(errno.EIO, "dead")
            self._take()
            self.effects.append(f"{kind} {path.relative_to(self.root)}")
            if kind == "sync":
                self._sync(subject[0], path)
                return None
            before = self._place_of(subject[0]) if kind == "rename" else None
            done = do()
            self._look()
            after = self._place_of(path)
            if before is not None and before[0] != after[0]:
                self._moved[self._pin(path)] = (before, after)
            if kind == "commit":
                self._commit(path, subject[0])
            return done

    def revive(self) -> bool:
        """Another process takes over; whether the one before it died."""
        died = self.dies_at is not None and len(self.effects) + 1 >= self.dies_at
        self.dies_at = None
        return died

    def _place_of(self, path: Path) -> Place:
        return path.parent.lstat().st_ino, path.name

    # --- what is known of an inode --------------------------------------------------------------------

    def _begin(self) -> None:
        """All that is there is certain."""
        self._look()
        for inode, path in self._paths.items():
            if inode in self._folders:
                self._sure[inode] = dict(self._now[inode])
            elif path.name.endswith(".db"):
                self._databases[inode] = self._kept[inode] = _database(path)
            else:
                self._kept[inode] = path.read_bytes()
        self._pending.clear()

    def _look(self) -> None:
        """Note what the last effect, and whatever goes past the seam, changed in which folder."""
        self._paths = {}
        waiting = [self.root]
        while waiting:
            folder = waiting.pop()
            inode = self._pin(folder)
            self._folders.add(inode)
            found = {}
            for entry in sorted(folder.iterdir()):
                if entry.name.endswith(SIDECARS):
                    continue
                found[entry.name] = self._pin(entry)
                if entry.is_dir():
                    waiting.append(entry)
            before = self._now.get(inode, {})
            change: Change = {n: i for n, i in found.items() if before.get(n) != i}
            change.update(dict.fromkeys(before.keys() - found.keys()))
            if change:
                self._pending.setdefault(inode, []).append(change)
            self._now[inode] = found

    def _pin(self, path: Path) -> int:
        """The inode of a path, which nothing else can get as long as we hold it."""
        inode = path.lstat().st_ino
        if inode not in self._pins:
            # O_PATH: to close it drops nobody's locks.
            self._pins[inode] = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._paths[inode] = path
        return inode

    def _sync(self, descriptor: int, path: Path) -> None:
        self.syncs.append(str(path.relative_to(self.root)))
        if len(self.syncs) == self.skip:
            return
        self._look()
        inode = os.fstat(descriptor).st_ino
        if inode in self._folders:
            self._sure[inode] = dict(self._now[inode])
            self._pending.pop(inode, None)
            self._moved = {i: w for i, w in self._moved.items() if self._pending.keys() & {w[0][0], w[1][0]}}
        else:
            self._kept[inode] = path.read_bytes()

    def _commit(self, path: Path, connection: sqlite.Connection) -> None:
        inode = path.lstat().st_ino
        self._databases[inode] = _database(path)
        if sqlite.one_value(connection, "PRAGMA synchronous") != 2:
            return
        self.commits.append(path.name)
        if self.weak is None or self.weak not in path.name:
            self._kept[inode] = self._databases[inode]

    # --- what a cut may leave -------------------------------------------------------------------------

    def _take(self) -> list[Image]:
        """Images of a cut at this moment, each once."""
        self._look()
        self._current = {inode: self._read(inode, path) for inode, path in self._paths.items()}
        taken = {image.digest: image for image in self._made()}
        for digest, image in taken.items():
            self.images.setdefault(digest, image)
        return list(taken.values())

    def _made(self) -> Iterator[Image]:
        everything, nothing = slice(None), slice(0)
        yield from self._image("all", lambda n: everything, lambda: "now")
        yield from self._image("none", lambda n: nothing, lambda: "sure")
        yield from self._image("names without contents", lambda n: everything, lambda: "sure")
        yield from self._image("names and torn contents", lambda n: everything, lambda: "torn")
        yield from self._image("contents without names", lambda n: nothing, lambda: "now")
        yield from self._image("last names only", lambda n: slice(-1, None), lambda: "sure")
        yield from self._image("first names only", lambda n: slice(1), lambda: "now")
        for _ in range(RANDOM_IMAGES):
            yield from self._image(
                "random",
                lambda n: [i for i in range(n) if self._draws.random() < 0.5],
                lambda: self._draws.choice(["now", "sure", "torn"]),
            )

    def _image(
        self,
        kind: str,
        names: Callable[[int], slice | list[int]],
        content: Callable[[], str],
    ) -> Iterator[Image]:
        """One home, or two where it may be before or after a rename between two folders."""
        listings = {inode: self._listing(inode, names) for inode in self._folders}
        contents = {inode: self._content(inode, content()) for inode in self._pins}
        torn = [where for inode, where in self._moved.items() if self._torn(inode, where, listings)]
        for choice in (0, 1) if torn else (0,):
            for inode, where in self._moved.items():
                if where in torn:
                    for folder, name in where:
                        listings[folder].pop(name, None)
                    folder, name = where[choice]
                    listings[folder][name] = inode
            files: dict[str, bytes | None] = {}
            self._fill(files, self.root.lstat().st_ino, "", listings, contents)
            yield Image(files, len(self.effects) + 1, kind)

    def _torn(self, inode: int, where: tuple[Place, Place], listings: dict[int, dict[str, int]]) -> bool:
        """Whether the two folders of a rename disagree about it."""
        names = [listings[folder].get(name) == inode for folder, name in where]
        return names[0] == names[1]

    def _fill(
        self,
        files: dict[str, bytes | None],
        folder: int,
        below: str,
        listings: dict[int, dict[str, int]],
        contents: dict[int, bytes],
    ) -> None:
        for name, inode in sorted(listings[folder].items()):
            path = f"{below}{name}"
            if inode in self._folders:
                files[path] = None
                self._fill(files, inode, f"{path}/", listings, contents)
            else:
                files[path] = contents[inode]

    def _listing(self, inode: int, names: Callable[[int], slice | list[int]]) -> dict[str, int]:
        pending = self._pending.get(inode, [])
        chosen = names(len(pending))
        listing = dict(self._sure.get(inode, {}))
        for change in pending[chosen] if isinstance(chosen, slice) else [pending[i] for i in chosen]:
            for name, leads_to in change.items():
                if leads_to is None:
                    listing.pop(name, None)
                else:
                    listing[name] = leads_to
        return listing

    def _read(self, inode: int, path: Path) -> bytes:
        """What a file holds now; no database is read but through SQLite."""
        if inode in self._databases:
            return self._databases[inode]
        if inode in self._folders or path.name.endswith(".db") or ".db.new-" in path.name:
            return b""
        return path.read_bytes()

    def _content(self, inode: int, choice: str) -> bytes:
        sure = self._kept.get(inode, b"")
        now = self._current.get(inode, sure)
        if choice == "sure" or now == sure:
            return sure
        # A database is torn by nobody: its pages come with their log, or not at all.
        return now if choice == "now" or inode in self._databases else now[: len(now) // 2]


def _path_of(kind: str, subject: tuple[Any, ...]) -> Path:
    if kind in ("write", "sync"):
        return Path(f"/proc/self/fd/{subject[0]}").readlink()
    if kind == "commit":
        return Path(subject[0].execute("PRAGMA database_list").fetchall()[0][2])
    return Path(subject[-1])


def _database(path: Path) -> bytes:
    """What is committed, as one file."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        with closing(sqlite.open_reader(path)) as connection, closing(sqlite.connect(str(copy))) as target:
            target.execute("PRAGMA synchronous=OFF").close()
            connection.backup(target)
        return copy.read_bytes()
