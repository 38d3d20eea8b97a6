"""The audit finds every broken promise, and none in a home that keeps them; it changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forge import locks
from forge.audit import Audit, Kind, audit
from forge.home import Home, SessionPaths
from forge.registry import Registry, State, edits, open_writer, queries
from forge.retention import reconcile
from tests.unit.cli.conftest import invoke
from tests.unit.faults.conftest import LATER, without_waiting_for_the_medium
from tests.unit.faults.operations import OTTER, VOLE

ULID, HEX = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "0123456789abcdef" * 2


@dataclass
class Place:
    """A copy of the home, and the folders of its two sessions."""

    home: Home
    otter: SessionPaths
    vole: SessionPaths

    def audit(self) -> Audit:
        """As a person asks for it two days later."""
        return audit(self.home, time.time() + LATER)

    def kinds(self) -> list[Kind]:
        """What is wrong."""
        return [finding.kind for finding in self.audit().findings]

    def change(self, sql: str, *parameters: Any) -> None:
        """Write to the registry past all rules."""
        with Registry.open(self.home) as registry:
            registry.write(lambda c: c.execute(sql, parameters).rowcount)

    def checkpoint(self, step: int = 8) -> Path:
        """One of the interrupted session."""
        return self.vole.checkpoints("pretrain") / f"step-{step:08d}"

    @property
    def model(self) -> Path:
        """One of the finished session."""
        return next((self.otter.root / "models").iterdir())


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Iterator[Place]:
    home = Home(tmp_path / "home")
    shutil.copytree(template, home.root)
    with without_waiting_for_the_medium():
        with Registry.open(home) as registry:
            rows = registry.fetch(queries.sessions(limit=10))
        paths = {row.name: home.session(row.id) for row in rows}
        yield Place(home, paths[OTTER], paths[VOLE])


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """All files with their change time; what SQLite keeps beside a database for readers is its own affair."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_home_that_keeps_its_promises(place: Place) -> None:
    before, found = tree(place.home.root), place.audit()
    assert found.findings == []
    assert found.clean
    assert (found.sessions, found.checkpoints, found.models) == (2, 6, 2)
    assert found.points > 60
    assert found.bytes > 10_000
    assert tree(place.home.root) == before


def test_no_database_is_opened_but_through_sqlite(place: Place) -> None:
    opened: list[str] = []
    watching = True
    # A hook stays for as long as the interpreter lives.
    sys.addaudithook(
        lambda event, args: opened.append(str(args[0])) if watching and event == "open" else None
    )
    place.audit()
    watching = False
    assert any(name.endswith("manifest.json") for name in opened)
    assert [name for name in opened if name.endswith((".db", ".db-wal", ".db-shm"))] == []


def test_no_home_and_an_empty_one(tmp_path: Path) -> None:
    assert audit(Home(tmp_path / "none")).clean
    home = Home(tmp_path / "home")
    Registry.open(home).close()
    assert audit(home).clean


def _cut_log(place: Place, condition: str) -> None:
    with closing(open_writer(place.vole.metrics, synchronous="NORMAL", wal_autocheckpoint=100)) as connection:
        connection.execute(f"DELETE FROM point WHERE {condition}").close()


def _unfinished(place: Place, name: str) -> None:
    shutil.copytree(place.checkpoint(), place.checkpoint().with_name(name))


def _forgotten(place: Place) -> None:
    """Of one phase neither a record nor a folder is left."""
    place.change("DELETE FROM model WHERE phase = 'pretrain'")
    shutil.rmtree(place.model)


BROKEN: dict[str, tuple[Kind, Callable[[Place], object]]] = {
    "a bit of a checkpoint": (Kind.CHECKPOINT, lambda p: flip(p.checkpoint() / "optimizer.safetensors")),
    "a bit of its state": (Kind.CHECKPOINT, lambda p: flip(p.checkpoint() / "state.json")),
    "a bit of its manifest": (Kind.CHECKPOINT, lambda p: flip(p.checkpoint() / "manifest.json")),
    "a file of a checkpoint": (Kind.CHECKPOINT, lambda p: (p.checkpoint() / "model.safetensors").unlink()),
    "a checkpoint": (Kind.CHECKPOINT, lambda p: shutil.rmtree(p.checkpoint())),
    "a record of a checkpoint": (
        Kind.CHECKPOINT,
        lambda p: p.change("DELETE FROM checkpoint WHERE step = 4"),
    ),
    "a file too many": (Kind.BYTES, lambda p: (p.checkpoint() / "more").write_bytes(b"x")),
    "a bit of a model": (Kind.MODEL, lambda p: flip(p.model / "model.safetensors")),
    "a model cut short": (Kind.MODEL, lambda p: os.truncate(p.model / "model.safetensors", 100)),
    "a tokenizer": (Kind.MODEL, lambda p: (p.model / "tokenizer.json").unlink()),
    "a model": (Kind.MODEL, lambda p: shutil.rmtree(p.model)),
    "a size of a model": (
        Kind.BYTES,
        lambda p: p.change("UPDATE model SET bytes = bytes + 1 WHERE rowid = 1"),
    ),
    "a step in the middle": (Kind.STEPS, lambda p: _cut_log(p, "step = 5")),
    "the first step": (Kind.STEPS, lambda p: _cut_log(p, "step = 1")),
    "the end of one series": (
        Kind.STEPS,
        lambda p: _cut_log(p, "step > 7 AND series_id = (SELECT id FROM series WHERE name = 'total')"),
    ),
    "the log": (Kind.STEPS, lambda p: p.vole.metrics.unlink()),
    "an owner": (Kind.OWNER, lambda p: p.change("UPDATE session SET state = 'running' WHERE name = 'vole'")),
    "a lease": (Kind.OWNER, lambda p: p.change("UPDATE session SET lease = 'x' WHERE name = 'vole'")),
    "a configuration": (Kind.FOLDER, lambda p: p.otter.config.unlink()),
    "a configuration cut short": (Kind.FOLDER, lambda p: os.truncate(p.vole.config, 5)),
    "a pipe for a configuration": (
        Kind.FOLDER,
        lambda p: _piped(p.vole.config),
    ),
    "a link for a checkpoint": (Kind.FOLDER, lambda p: _linked(p.vole.checkpoints("pretrain"))),
    "a session": (Kind.FOLDER, lambda p: shutil.rmtree(p.otter.root)),
    "a place": (Kind.FOLDER, lambda p: p.otter.root.rename(p.home.trashed(p.otter.root.name).root)),
    "a record": (Kind.FOLDER, lambda p: p.change("DELETE FROM session WHERE name = 'otter'")),
    "a folder of nobody": (Kind.FOLDER, lambda p: (p.home.sessions / ULID).mkdir()),
    "a half-written checkpoint": (Kind.LEFTOVER, lambda p: _unfinished(p, f"step-00000012.tmp-{ULID}")),
    "a half-written model": (Kind.LEFTOVER, lambda p: (p.otter.root / "models" / f"{ULID}.tmp").mkdir()),
    "a half-made metrics file": (
        Kind.LEFTOVER,
        lambda p: (p.vole.root / f".metrics.db.new-{HEX}").write_bytes(b""),
    ),
    "a half-made registry": (
        Kind.LEFTOVER,
        lambda p: (p.home.root / f".registry.db.new-{HEX}").write_bytes(b""),
    ),
    "a half-made copy": (
        Kind.LEFTOVER,
        lambda p: (p.home.root / ".registry.db.v1-20260101T000000Z-0a1b2c.backup.tmp").write_bytes(b""),
    ),
    "a half-made session": (
        Kind.LEFTOVER,
        lambda p: (p.home.sessions / f"{ULID}.tmp").mkdir(),
    ),
    "a half-written text": (Kind.LEFTOVER, lambda p: (p.home.cache / f".{HEX}.tmp-0a1b2c3d").mkdir()),
    "half-written settings": (
        Kind.LEFTOVER,
        lambda p: (p.home.root / f".settings.yaml.tmp-{HEX}").write_bytes(b""),
    ),
    "a stray file of the home": (
        Kind.LEFTOVER,
        lambda p: (p.home.root / f".notes.tmp-{HEX}").write_bytes(b""),
    ),
    "a stray file among the sessions": (
        Kind.LEFTOVER,
        lambda p: (p.home.sessions / ".x.tmp-1").write_bytes(b""),
    ),
    "a stray file of a session": (
        Kind.LEFTOVER,
        lambda p: (p.vole.root / ".x.tmp-1").write_bytes(b""),
    ),
    "settings": (Kind.SETTINGS, lambda p: p.home.settings.write_bytes(b"\xff: ]garbage")),
    "settings that mean nothing": (
        Kind.SETTINGS,
        lambda p: p.home.settings.write_text("retention: {auto: perhaps}"),
    ),
    "a folder for a lease": (Kind.OWNER, lambda p: _foldered(p.vole.lease)),
    "the records of the models of a phase": (
        Kind.MODEL,
        _forgotten,
    ),
    "the record of a model": (
        Kind.MODEL,
        lambda p: shutil.copytree(p.model, p.model.with_name(ULID)),
    ),
    "a model without a record and a card": (Kind.MODEL, lambda p: (p.model.with_name(ULID)).mkdir()),
    "the trash": (
        Kind.REGISTRY,
        lambda p: p.change("UPDATE session SET state = 'trashed' WHERE name = 'otter'"),
    ),
}
NOT_REPAIRED = frozenset(
    {
        "a bit of a checkpoint", "a bit of its state", "a bit of its manifest", "a file of a checkpoint",
        "a file too many", "a bit of a model", "a model cut short", "a tokenizer", "a size of a model",
        "a configuration", "a configuration cut short", "a pipe for a configuration",
        "a link for a checkpoint",
        "a step in the middle", "the first step", "the end of one series", "the log", "a folder of nobody",
        "the trash", "a stray file of the home", "a stray file among the sessions",
        "a stray file of a session", "settings",
        "settings that mean nothing", "a folder for a lease", "the records of the models of a phase",
        "the record of a model", "a model without a record and a card",
    }
)  # fmt: skip
"""What is lost stays lost; a person hears of it until it is put back."""


def _piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _foldered(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _linked(folder: Path) -> None:
    """A folder moved elsewhere, with a link in its place."""
    elsewhere = folder.parents[3] / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found(place: Place, what: str) -> None:
    kind, damage = BROKEN[what]
    damage(place)
    assert set(place.kinds()) >= {kind}, place.audit().findings
    assert set(place.kinds()) <= {kind, Kind.FOLDER}
    for finding in place.audit().findings:
        assert finding.what
        assert finding.remedy


@pytest.mark.parametrize("what", sorted(BROKEN.keys() - NOT_REPAIRED))
def test_what_can_be_put_right_is(place: Place, what: str) -> None:
    BROKEN[what][1](place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda real=time.time: real() + LATER)
        result = invoke(place.home, "audit", "--repair", "--json")
    assert result.json["findings"] == []
    assert result.code == 0
    assert audit(place.home, time.time() + LATER).clean


def test_a_damaged_registry(place: Place) -> None:
    with place.home.registry.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 40_000)
    assert Kind.REGISTRY in place.kinds()
    place.home.registry.write_bytes(b"no database at all" * 100)
    assert place.kinds() == [Kind.REGISTRY]


def test_what_a_live_session_is_writing_is_no_finding(place: Place) -> None:
    def take(registry: Registry) -> None:
        id = place.vole.root.name
        registry.write(lambda c: edits.take_lease(c, id, "01X", "pid 1", time.time()))
        registry.write(lambda c: edits.set_session_state(c, id, State.RUNNING, now=time.time()))

    with Registry.open(place.home) as registry:
        take(registry)
    _unfinished(place, f"step-00000012.tmp-{ULID}")
    with locks.hold(place.vole.lease):
        assert place.kinds() == []
    assert sorted(place.kinds()) == [Kind.LEFTOVER, Kind.OWNER]


def test_a_session_that_is_just_being_made_is_no_finding(place: Place) -> None:
    id = ULID
    root = place.home.session(id).root
    root.mkdir()
    shutil.copy(place.vole.config, root)
    now = place.vole.config.stat().st_mtime
    os.utime(root / "session.yaml", (now, now))
    assert audit(place.home, now + 3599).clean
    assert [finding.kind for finding in audit(place.home, now + 3601).findings] == [Kind.FOLDER]


def test_what_is_marked_missing_is_no_finding_twice(place: Place) -> None:
    shutil.rmtree(place.model)
    with Registry.open(place.home) as registry:
        assert len(reconcile(place.home, registry).problems) == 1
        assert reconcile(place.home, registry).problems == []
    assert place.kinds() == []


def test_where_the_disk_stalled_points_may_be_merged(place: Place) -> None:
    _cut_log(place, "step = 5")
    assert place.kinds() == [Kind.STEPS]
    with Registry.open(place.home) as registry:
        id = place.vole.root.name
        registry.write(lambda c: edits.add_event(c, id, kind="stall", message="merged", now=1.0))
    assert place.kinds() == []


def test_it_says_how_far_it_is(place: Place) -> None:
    seen: list[tuple[int, int]] = []
    audit(place.home, progress=lambda done, of: seen.append((done, of)))
    assert len(seen) == 8
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_torch_is_not_imported(place: Place) -> None:
    code = (
        "import sys; from forge.cli import main\n"
        f"sys.argv = ['forge', 'audit', '--home', {str(place.home.root)!r}]\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_the_command(place: Place, tmp_path: Path) -> None:
    result = invoke(place.home, "audit")
    assert result.code == 0
    assert result.out.startswith("2 sessions, 6 checkpoints, 2 models, ")
    assert result.out.endswith("nothing is wrong\n")
    flip(place.checkpoint() / "state.json")
    result = invoke(place.home, "audit")
    assert result.code == 1
    assert "vole: pretrain step 8" in result.out
    assert "1 wrong" in result.out
    found = invoke(place.home, "audit", "--json")
    assert (found.code, found.json["clean"], found.json["findings"][0]["kind"]) == (1, False, "checkpoint")
    assert invoke(Home(tmp_path / "nowhere"), "audit").code == 4
