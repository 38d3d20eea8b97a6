"""The same drills for three stores: several writers at once, and `kill -9` in the middle of their writing.

What a store has accepted must be there afterwards, and its file whole. A killed process keeps its page cache,
so this says nothing of power cuts; the walks over simulated ones in tests/ do.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.children import ROOT
from benchmarks.stores import Store, installed
from benchmarks.table import Row, left_out

WRITERS = 4
SEED = 20_261_125
EACH = 60
"""Records of a writer that may be killed."""


@dataclass
class Drill:
    """What came of one drill with one store."""

    tried: int = 0
    accepted: int = 0
    errors: int = 0
    lost: int = 0
    """Records that were accepted and are not there."""
    damaged: int = 0
    """Looks at a file that SQLite does not find whole."""
    seconds: float = 0.0
    words: set[str] = field(default_factory=set)
    """What went wrong, in the store's own words."""

    @property
    def milliseconds(self) -> float:
        """Of one accepted record, while all write."""
        return 1000 * self.seconds / max(1, self.accepted)


class Writer:
    """A process that appends to a store."""

    def __init__(self, name: str, folder: Path, number: int, count: int) -> None:
        self.number = number
        command = [sys.executable, "-m", "benchmarks.stores", name, str(folder), str(number), str(count)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.said: list[str] = []

    def ready(self) -> None:
        """Wait until it has opened the store."""
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()) != "ready\n":
            if not line:
                raise RuntimeError("a writer ended before it had begun")

    def begin(self) -> None:
        """Let it write."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def listen(self, records: int) -> None:
        """Wait until it was told of so many records."""
        assert self._process.stdout is not None
        while len(self.said) < records and (line := self._process.stdout.readline()):
            self.said.append(line.strip())

    def kill(self) -> None:
        """End it at once; what it has said before counts."""
        self._process.kill()
        self.finish()

    def finish(self) -> None:
        """Wait for its end."""
        assert self._process.stdout is not None
        self.said += self._process.stdout.read().split("\n")
        self._process.stdout.close()
        self._process.wait()

    @property
    def accepted(self) -> set[int]:
        """The numbers that the store has accepted."""
        return {int(line) for line in self.said if line.isdigit()}

    @property
    def errors(self) -> list[str]:
        """What the store refused, in its words."""
        return [line[2:] for line in self.said if line.startswith("! ")]


def run(quick: bool) -> list[Row]:
    """Rows for each store that is installed; where none but ours is, there is nothing beside it."""
    count, kills = (10, 2) if quick else (250, 10)
    found: dict[str, tuple[Drill, Drill]] = {}
    for name, store in installed().items():
        # One folder for both: trackio reads where it is to store when it is imported, and never again.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            opened = store(Path(folder))
            opened.prepare()
            found[name] = (
                _together(name, opened, Path(folder), count),
                _killed(name, opened, Path(folder), kills),
            )
        for what, drill in zip(("writers at once", "kill -9"), found[name], strict=True):
            for words in sorted(drill.words):
                print(f"durability: {name}, {what}: {words[:160]}", file=sys.stderr)
    for name in ("MLflow", "trackio"):
        if name not in found:
            left_out("durability", name)
    return _rows(found, count, kills)


def _rows(found: dict[str, tuple[Drill, Drill]], count: int, kills: int) -> list[Row]:
    ours = found["Forge"]
    peers = {name: drills for name, drills in found.items() if name != "Forge"}
    if not peers:
        return _beside(f"{WRITERS} writers x {count}", f"{kills} kill -9", ours, None)
    rows = []
    for name, theirs in peers.items():
        writers, killed = (
            f"{what} (peer: {name})" for what in (f"{WRITERS} writers x {count}", f"{kills} kill -9")
        )
        rows += _beside(writers, killed, ours, theirs)
    return rows


def _beside(
    writers: str, killed: str, ours: tuple[Drill, Drill], theirs: tuple[Drill, Drill] | None
) -> list[Row]:
    def line(name: str, drill: int, what: Callable[[Drill], float], unit: str = "", *, must: bool) -> Row:
        peer = None if theirs is None else what(theirs[drill])
        return Row(name, what(ours[drill]), unit, peer=peer, budget=0 if must else None)

    return [
        line(f"{writers}: errors", 0, lambda drill: drill.errors, must=True),
        line(f"{writers}: accepted and lost", 0, lambda drill: drill.lost, must=True),
        line(f"{writers}: a record", 0, lambda drill: drill.milliseconds, "ms", must=False),
        line(f"{killed}: accepted and lost", 1, lambda drill: drill.lost, must=True),
        line(f"{killed}: damaged files", 1, lambda drill: drill.damaged, must=True),
        line(f"{killed}: records accepted", 1, lambda drill: drill.accepted, must=False),
    ]


def _together(name: str, store: Store, folder: Path, count: int) -> Drill:
    drill = Drill(tried=WRITERS * count)
    writers = [Writer(name, folder, number, count) for number in range(WRITERS)]
    for writer in writers:
        writer.ready()
    start = time.perf_counter()
    for writer in writers:
        writer.begin()
    for writer in writers:
        writer.finish()
    drill.seconds = time.perf_counter() - start
    _count(drill, store, writers)
    return drill


def _killed(name: str, store: Store, folder: Path, kills: int) -> Drill:
    """Kill one writer of two at a random record; the other must go on, and nothing accepted be missing."""
    drill, rng = Drill(), random.Random(SEED)
    for kill in range(kills):
        victim, witness = (Writer(name, folder, WRITERS + 2 * kill + side, EACH) for side in range(2))
        for writer in (victim, witness):
            writer.ready()
        for writer in (victim, witness):
            writer.begin()
        victim.listen(rng.randrange(1, EACH // 2))
        victim.kill()
        witness.finish()
        drill.tried += 2 * EACH
        _count(drill, store, [victim, witness])
    return drill


def _count(drill: Drill, store: Store, writers: list[Writer]) -> None:
    for writer in writers:
        drill.accepted += len(writer.accepted)
        drill.errors += len(writer.errors)
        drill.words.update(writer.errors)
        drill.lost += len(writer.accepted - store.found(writer.number))
    drill.damaged += not store.is_sound()
