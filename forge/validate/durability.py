"""Proof of durability: the power is cut at every effect of saving, trashing and purging, and nothing is lost.

Because a killed process keeps its page cache, killing one proves nothing about the order of fsyncs. Here a
cut drops what was not fsynced, in the ways that POSIX allows; a fresh engine then opens what is left.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from forge import durable
from forge.audit import Kind, audit
from forge.config import load_config, read_frozen
from forge.engine import Engine, checkpoint
from forge.engine.checkpoint import Meta
from forge.errors import ForgeError
from forge.home import Home
from forge.registry import Connection, Error, MetricsWriter, SessionRow, State, cleanup, edits, queries
from forge.retention import SessionCleanupPolicy, execute, plan, purge, reconcile
from forge.validate.disk import Disk, Image
from forge.validate.job import CannotRunError, Job
from forge.validate.result import Figure

KEPT, GONE = "kept", "gone"
PHASE = "pretrain"
SAVED = (1, 2)
"""Steps whose checkpoints are there before; the next one is being saved when the power goes."""
NEXT = 3
LATER = 2 * 86_400.0
"""Seconds after which a fresh process looks: what nobody has recorded by then never will be."""
OUTLIVED = frozenset({Kind.OWNER, Kind.LEFTOVER})
"""What a cut leaves of an operation that had returned: its process is dead, and garbage may be back."""
POLICY = SessionCleanupPolicy(max_sessions_retained=0, max_age_days=None, max_failed_age_days=None)

Act = Callable[[], None]


@dataclass(frozen=True)
class Operation:
    """What is cut, and what must be true of the home that is found afterwards."""

    name: str
    prepare: Callable[[Engine], Act]
    """Everything before it; what it gives is the operation itself."""
    holds: Callable[[Engine, bool], bool]
    """The second argument says that the operation had returned."""


@dataclass
class Walk:
    """What was looked at, and what was wrong."""

    effects: int = 0
    images: int = 0
    wrong: list[str] = field(default_factory=list)
    syncs: int = 0
    noticed: int = 0
    """Of the fsyncs that were left out one by one, those whose loss a cut showed."""


def prove(job: Job) -> list[Figure]:
    """Cut each operation at every effect, then with each fsync left out."""
    if sys.platform != "linux":
        raise CannotRunError("files are followed through their names by means that only Linux has.")
    operations = OPERATIONS[:2] if job.quick else OPERATIONS
    template = Home(job.folder / "template")
    _build(template)
    walk = Walk()
    for number, operation in enumerate(operations):
        job.tell(number / len(operations), f"the power is cut in a {operation.name}")
        syncs = _cut(job.folder, template, operation, walk)
        for left_out in range(1, syncs + 1):
            share = (number + 0.5 + 0.5 * left_out / (syncs + 1)) / len(operations)
            job.tell(share, f"fsync {left_out} of {syncs} in a {operation.name} is left out")
            walk.noticed += _is_noticed(job.folder, template, operation, left_out)
        walk.syncs += syncs
    named = ", ".join(operation.name for operation in operations)
    return [
        Figure(f"effects of {named} that the power was cut at", walk.effects, "", ">=", 10),
        Figure("homes that a cut may leave", walk.images, "", ">=", walk.effects),
        Figure(f"of these, homes with a loss{_first(walk.wrong)}", len(walk.wrong), "", "==", 0),
        Figure("fsyncs whose absence is seen", walk.noticed, f"of {walk.syncs}", ">=", walk.syncs,
               control=True),
    ]  # fmt: skip


def _cut(folder: Path, template: Home, operation: Operation, walk: Walk) -> int:
    """Look at every home that a cut may leave; returns how many fsyncs the operation has."""
    disk = _record(folder, template, operation)
    walk.effects += len(disk.effects)
    for image in disk.images.values():
        walk.images += 1
        walk.wrong += _look(folder, operation, image, done=False)
    for image in disk.final:
        walk.images += 1
        walk.wrong += _look(folder, operation, image, done=True)
    return len(disk.syncs)


def _is_noticed(folder: Path, template: Home, operation: Operation, left_out: int) -> bool:
    """Whether some cut shows a loss when one fsync does nothing."""
    disk = _record(folder, template, operation, left_out)
    return any(_look(folder, operation, image, done=True) for image in disk.final) or any(
        _look(folder, operation, image, done=False) for image in disk.images.values()
    )


def _record(folder: Path, template: Home, operation: Operation, left_out: int | None = None) -> Disk:
    """Run an operation to its end on a disk that can lose its power."""
    home = Home(folder / "recorded")
    shutil.copytree(template.root, home.root)
    disk = Disk(home.root, left_out)
    engine = Engine(home)
    try:
        act = operation.prepare(engine)
        with disk.recording():
            act()
    finally:
        engine.shutdown()
        shutil.rmtree(home.root)
    return disk


def _look(folder: Path, operation: Operation, image: Image, *, done: bool) -> list[str]:
    """What is wrong once a fresh engine has put right what a cut left; before, too, where it had returned."""
    home = Home(image.write(folder / "left"))
    later = time.time() + LATER
    where = f"{operation.name}, effect {image.at}, {image.kind}"
    try:
        wrong = [str(f.what) for f in audit(home, later).findings if done and f.kind not in OUTLIVED]
        with _without_waiting(), closing(_Opened(home)) as opened:
            reconcile(home, opened.engine.registry, later)
            if not operation.holds(opened.engine, done):
                wrong.append("what was acknowledged is not there")
        wrong += [str(finding.what) for finding in audit(home, later).findings]
    except (ForgeError, Error, OSError) as error:
        wrong = [str(error)]
    finally:
        shutil.rmtree(home.root)
    return [f"{where}: {each}" for each in wrong[:1]]


class _Opened:
    """An engine over a home, as a fresh process has it."""

    def __init__(self, home: Home) -> None:
        self.engine = Engine(home)
        self.engine.reconcile()

    def close(self) -> None:
        """Close its registry."""
        self.engine.shutdown()


@contextmanager
def _without_waiting() -> Iterator[None]:
    """No waiting for the medium where a home is only looked at."""
    real = durable._sync
    durable._sync = lambda descriptor: None
    try:
        yield
    finally:
        durable._sync = real


# --- the home, and what is done to it --------------------------------------------------------------------


def _build(home: Home) -> None:
    """Two sessions with checkpoints and logs: one goes on, one is completed."""
    engine = Engine(home)
    try:
        for name in (KEPT, GONE):
            session_id = engine.create(load_config("tiny"), name)
            for state in (State.RUNNING, State.STOPPED if name == KEPT else State.FAILED):
                if state is not State.RUNNING:
                    for step in SAVED:
                        _save(engine, session_id, step)
                _enter(engine, session_id, state)
    finally:
        engine.shutdown()


def _enter(engine: Engine, session_id: str, state: State) -> None:
    """Bring a session there; one that is completed has all its phases completed."""
    now = time.time()
    phases = [run.phase for run in engine.registry.fetch(queries.phase_runs(session_id))]

    def enter(c: Connection) -> None:
        for phase in phases if state is State.FAILED else [PHASE]:
            if phase != PHASE:
                edits.set_phase_state(c, session_id, phase, State.RUNNING, now=now)
            edits.set_phase_state(c, session_id, phase, state, now=now)
        edits.set_session_state(c, session_id, state, now=now, phase=PHASE)

    engine.registry.write(enter)


def _save(engine: Engine, session_id: str, step: int) -> None:
    """As a run saves: the log, the checkpoint, its record."""
    import torch

    paths = engine.home.session(session_id)
    with closing(MetricsWriter(paths.metrics)) as writer:
        writer.append([(PHASE, step, {"loss": 1.0 / step})])
        writer.commit_durably()
    state = {"state": {"model": {"weight": torch.full((4, 4), float(step))}}}
    saved = checkpoint.save(paths.checkpoints(PHASE), step, state, Meta({"loss": step}, {}, float(step)))
    engine.registry.write(
        lambda c: edits.add_checkpoint(
            c, session_id, phase=PHASE, step=step, path=str(saved.path.relative_to(paths.root)),
            bytes=saved.bytes, seconds=float(step), now=time.time(),
        )
    )  # fmt: skip


def _saving(engine: Engine) -> Act:
    session = _need(engine, KEPT)
    return lambda: _save(engine, session.id, NEXT)


def _is_saved(engine: Engine, done: bool) -> bool:
    """The newest checkpoint is the one before or the new one, and the new one once it was acknowledged."""
    paths = engine.home.session(_need(engine, KEPT).id)
    found = checkpoint.load_latest(paths.checkpoints(PHASE), lambda step, why: None)
    if found is None or found.step < (NEXT if done else SAVED[-1]):
        return False
    return bool((found.state["state"]["model"]["weight"] == found.step).all())


def _trashing(engine: Engine) -> Act:
    def act() -> None:
        found = plan(engine.home, engine.registry, POLICY, time.time())
        for _, why in execute(engine.home, engine.registry, found, actor="proof", now=time.time()).skipped:
            raise OSError(why)

    return act


def _is_trashed(engine: Engine, done: bool) -> bool:
    """The session is whole, in the trash or where it was; in the trash once that was acknowledged."""
    session = _find(engine, GONE)
    return session is not None and _is_whole(engine, session) and (not done or session.state is State.TRASHED)


def _purging(engine: Engine) -> Act:
    _trashing(engine)()
    rows = engine.registry.fetch(cleanup.trash())

    def act() -> None:
        for _, why in purge(engine.home, engine.registry, rows, actor="proof", now=time.time()).skipped:
            raise OSError(why)

    return act


def _is_purged(engine: Engine, done: bool) -> bool:
    """The session is whole in the trash, or gone with all that it had; gone once that was acknowledged."""
    session = _find(engine, GONE)
    if session is not None:
        return not done and session.state is State.TRASHED and _is_whole(engine, session)
    return not list(engine.home.trash.iterdir()) and len(list(engine.home.sessions.iterdir())) == 1


def _is_whole(engine: Engine, session: SessionRow) -> bool:
    place = engine.home.trashed if session.state is State.TRASHED else engine.home.session
    root = place(session.id).root
    rows = engine.registry.fetch(queries.checkpoints(session.id, None))
    loaded = [checkpoint.load(root / row.path).step for row in rows]
    return read_frozen(root / "session.yaml").name == "tiny" and loaded == list(SAVED)


def _find(engine: Engine, name: str) -> SessionRow | None:
    rows = engine.registry.fetch(queries.sessions(limit=10, states=tuple(State)))
    return next((row for row in rows if row.name == name), None)


def _need(engine: Engine, name: str) -> SessionRow:
    row = _find(engine, name)
    if row is None:
        raise ForgeError(f"the session {name} is lost")
    return row


def _first(wrong: list[str]) -> str:
    """The first loss, for whoever has to find out."""
    return f", such as after {wrong[0]}" if wrong else ""


OPERATIONS = (
    Operation("save", _saving, _is_saved),
    Operation("trash", _trashing, _is_trashed),
    Operation("purge", _purging, _is_purged),
)
