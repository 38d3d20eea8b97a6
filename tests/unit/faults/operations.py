"""The operations that are crashed, on a home with a finished session and an interrupted one.

Each says what it does to a home, and what must be true of it afterwards; `done` asks for what the operation
promised by returning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forge.config import read_frozen
from forge.contract import PhaseResult
from forge.engine import Engine, checkpoint, runner
from forge.engine.keeper import Keeper
from forge.engine.runner import Runner
from forge.engine.store import ModelStore
from forge.home import Home
from forge.registry import SessionRow, State, cleanup, fetch, open_reader, queries, schema, sqlite
from forge.registry.schema import Migration, Schema
from forge.retention import SessionCleanupPolicy, execute, plan, purge, undo
from tests.unit.engine.rig import STEPS, Counting, Rig, counting_config

OTTER, VOLE, NEWT = "otter", "vole", "newt"
FIRST, SAVED, DONE = 4, 8, STEPS
"""A first checkpoint; the interrupted session's newest one, and the one that is being saved."""
POLICY = SessionCleanupPolicy(max_sessions_retained=0, max_age_days=None, max_failed_age_days=None)
NEWER = Schema(
    "registry",
    schema.REGISTRY.application_id,
    (
        *schema.REGISTRY.migrations,
        Migration(
            schema.REGISTRY.version + 1,
            "colours",
            ("ALTER TABLE session ADD COLUMN colour TEXT", "CREATE TABLE hue (a INT) STRICT"),
        ),
    ),
)
Act = Callable[[], object]


@dataclass(frozen=True)
class Operation:
    """What is crashed."""

    name: str
    start: Callable[[Home], AbstractContextManager[Act]]
    """Everything up to the operation itself, which is the call of what it gives."""
    check: Callable[[Engine, bool], None]
    """Asserts on a home that was opened anew; the second argument says that the operation had returned."""
    empty: bool = False
    """On an empty home."""
    program: Callable[[], AbstractContextManager[object]] = nullcontext
    """The program that does it, and that opens the home afterwards, where it is another one than this."""


def build(root: Path) -> Home:
    """The home that all operations start from."""
    home = Home(root)
    engine = Engine(home)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "make_phase", lambda name, scope: Counting())
            otter = engine.host(engine.create(counting_config(), OTTER))
            assert otter.wait(60)
            # Whoever tidies up behind it must not take the next one, which holds no lease, for dead.
            assert otter.settle()
        rig = Rig(engine, engine.create(counting_config(), VOLE))
        with pytest.raises(ZeroDivisionError), rig.attempt() as ctx:
            Counting(during=_stop_at(SAVED + 2)).run(ctx, ())
        engine.reconcile()
        assert rig.checkpoints() == [SAVED - 4, SAVED]
    finally:
        engine.shutdown()
    return home


def _stop_at(step: int) -> Callable[[Any, int], None]:
    def during(ctx: object, at: int) -> None:
        if at == step:
            raise ZeroDivisionError

    return during


def _session(engine: Engine, name: str) -> SessionRow | None:
    rows = engine.registry.fetch(queries.sessions(limit=10, states=tuple(State)))
    return next((row for row in rows if row.name == name), None)


def _need(engine: Engine, name: str) -> SessionRow:
    row = _session(engine, name)
    assert row is not None, f"{name} is lost"
    return row


# --- a checkpoint, and the end of a phase -----------------------------------------------------------------


@contextmanager
def saving(home: Home) -> Iterator[Act]:
    """The checkpoint of the last step, with one that is too many deleted."""
    engine = Engine(home)
    try:
        rig = Rig(engine, _need(engine, VOLE).id)
        counting = Counting()
        with rig.attempt() as ctx:
            keeper = Keeper(rig.scope, "pretrain", lambda kind, message, **place: None)
            found = keeper.restore()
            assert found is not None
            counting.sums.load_state_dict(found.state["state"])
            ctx.rng.load_state_dict(found.state["generators"])
            for step in range(found.step, DONE):
                ctx.log(step + 1, loss=counting.sums.add(ctx), total=counting.sums.total)
            state = {"state": counting.sums.state_dict(), "generators": ctx.rng.state_dict()}
            yield lambda: keeper.save(DONE, state, 1.0, scheduled=True)
    finally:
        engine.shutdown()


def saved(engine: Engine, done: bool) -> None:
    """The newest checkpoint is the new one or the one before it, and is what it was."""
    paths = engine.home.session(_need(engine, VOLE).id)
    damaged: list[str] = []
    found = checkpoint.load_latest(paths.checkpoints("pretrain"), lambda step, why: damaged.append(why))
    assert damaged == []
    assert found is not None, "all checkpoints are lost"
    assert found.step == DONE if done else found.step in (SAVED, DONE), f"went back to step {found.step}"
    twin = Counting()
    with_rest = engine.registry.fetch(queries.checkpoints(_need(engine, VOLE).id, "pretrain"))
    assert len(with_rest) >= 2
    twin.sums.load_state_dict(found.state["state"])
    assert abs(twin.sums.total) > 0


@contextmanager
def saving_first(home: Home) -> Iterator[Act]:
    """The first checkpoint of a session, which has no folder for it yet; begun anew it is the same one."""
    engine = Engine(home)
    try:
        if _session(engine, NEWT) is None:
            engine.create(counting_config(), NEWT)
        rig = Rig(engine, _need(engine, NEWT).id)
        with rig.attempt() as ctx:
            keeper = Keeper(rig.scope, "pretrain", lambda kind, message, **place: None)
            found = keeper.restore()
            counting = Counting()
            for step in range(FIRST):
                ctx.log(step + 1, loss=counting.sums.add(ctx))
            state = {"state": counting.sums.state_dict(), "generators": ctx.rng.state_dict()}

            def save() -> None:
                if found is None:
                    keeper.save(FIRST, state, 1.0, scheduled=True)

            yield save
    finally:
        engine.shutdown()


def saved_first(engine: Engine, done: bool) -> None:
    """It is there, or there is none."""
    folder = engine.home.session(_need(engine, NEWT).id).checkpoints("pretrain")
    found = checkpoint.load_latest(folder, lambda step, why: pytest.fail(why))
    assert found is not None or not done, "the checkpoint is lost"
    assert found is None or found.step == FIRST


@contextmanager
def finishing(home: Home) -> Iterator[Act]:
    """The model of a phase, and the record that the phase is completed."""
    engine = Engine(home)
    try:
        rig = Rig(engine, _need(engine, VOLE).id)
        if rig.phase().state is State.COMPLETED:
            yield lambda: None
            return
        with rig.attempt() as ctx:
            store = ModelStore(engine.registry, rig.session_id, rig.paths)
            store.remove_orphans("pretrain")
            result: PhaseResult = Counting().run(ctx, ())
            run = rig.phase()
            yield lambda: Runner(rig.scope)._finish_phase(run, result, {"rows": []})
    finally:
        engine.shutdown()


def finished(engine: Engine, done: bool) -> None:
    """The phase is completed and hands a model on, or it is not and there is none."""
    session = _need(engine, VOLE)
    paths = engine.home.session(session.id)
    run = engine.registry.fetch(queries.latest_phase_run(session.id, "pretrain"))[0]
    rows = engine.registry.fetch(queries.models(session.id, 10))
    if done or run.state is State.COMPLETED:
        assert run.state is State.COMPLETED
        assert len(ModelStore(engine.registry, session.id, paths).load("pretrain")) == len(rows) == 1
    else:
        assert rows == []
        found = checkpoint.load_latest(paths.checkpoints("pretrain"), lambda step, why: pytest.fail(why))
        assert found is not None
        assert found.step == DONE


# --- cleanup ----------------------------------------------------------------------------------------------


@contextmanager
def trashing(home: Home) -> Iterator[Act]:
    """The finished session into the trash."""
    engine = Engine(home)
    try:
        yield lambda: _trash(engine)
    finally:
        engine.shutdown()


def _trash(engine: Engine) -> None:
    found = plan(engine.home, engine.registry, POLICY, time.time())
    assert [decision.session.name for decision in found.to_trash] == [OTTER]
    outcome = execute(engine.home, engine.registry, found, actor="me", now=time.time())
    for _, why in outcome.skipped:
        raise OSError(why)


def trashed(engine: Engine, done: bool) -> None:
    """It is in the trash or where it was, whole."""
    session = _need(engine, OTTER)
    assert session.state is State.TRASHED if done else session.state in (State.TRASHED, State.COMPLETED)
    _whole(engine, session)


@contextmanager
def undoing(home: Home) -> Iterator[Act]:
    """The finished session out of the trash."""
    engine = Engine(home)
    try:
        _trash(engine)
        session = _need(engine, OTTER).id
        yield lambda: undo(home, engine.registry, session, actor="me", now=time.time())
    finally:
        engine.shutdown()


def undone(engine: Engine, done: bool) -> None:
    """It is back or still in the trash, whole."""
    session = _need(engine, OTTER)
    assert session.state is State.COMPLETED if done else session.state in (State.TRASHED, State.COMPLETED)
    _whole(engine, session)


@contextmanager
def purging(home: Home) -> Iterator[Act]:
    """The finished session deleted for good."""
    engine = Engine(home)
    try:
        _trash(engine)
        rows = engine.registry.fetch(cleanup.trash())
        yield lambda: _purge(engine, rows)
    finally:
        engine.shutdown()


def _purge(engine: Engine, rows: Any) -> None:
    for _, why in purge(engine.home, engine.registry, rows, actor="me", now=time.time()).skipped:
        raise OSError(why)


def purged(engine: Engine, done: bool) -> None:
    """It is gone with all that belongs to it, or whole in the trash; what is gone never comes back."""
    session = _session(engine, OTTER)
    rest = {row.name for row in engine.registry.fetch(queries.sessions(limit=10, states=tuple(State)))}
    assert rest - {OTTER} == {VOLE}, f"{rest}: who is that?"
    if session is None:
        places = (engine.home.sessions, engine.home.trash)
        left = [entry.name for place in places for entry in place.iterdir()]
        assert left == [_need(engine, VOLE).id]
        return
    assert not done, "it came back"
    assert session.state is State.TRASHED
    _whole(engine, session)


def _whole(engine: Engine, session: SessionRow) -> None:
    place = engine.home.trashed if session.state is State.TRASHED else engine.home.session
    root = place(session.id).root
    assert read_frozen(root / "session.yaml").name == "counting"
    rows = engine.registry.fetch(queries.checkpoints(session.id, None))
    assert [(row.phase, row.step) for row in rows] == [
        (phase, step) for phase in ("pretrain", "forging") for step in (8, 12)
    ]
    for row in rows:
        assert checkpoint.load(root / row.path).step == row.step
    assert len(engine.registry.fetch(queries.models(session.id, 10))) == 2


# --- the registry, and a new session ----------------------------------------------------------------------


@contextmanager
def newer() -> Iterator[None]:
    """A Forge with a newer registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "REGISTRY", NEWER)
        yield


@contextmanager
def migrating(home: Home) -> Iterator[Act]:
    """The registry of an older Forge opened by a newer one."""
    yield lambda: Engine(home).shutdown()


def migrated(engine: Engine, done: bool) -> None:
    """Nothing is lost, and the file from before is kept, whole."""
    assert not engine.registry.read_only
    assert {_need(engine, name).name for name in (OTTER, VOLE)} == {OTTER, VOLE}
    backups = list(engine.home.root.glob("registry.db.v1-*.backup"))
    assert backups
    for backup in backups:
        with closing(open_reader(backup)) as connection:
            assert sqlite.problems(connection) == []
            assert fetch(connection, queries.count_sessions()) == [2]
    _whole(engine, _need(engine, OTTER))


@contextmanager
def refilling(home: Home) -> Iterator[Act]:
    """The first session of a home whose folders somebody has deleted."""
    Engine(home).shutdown()
    for folder in (home.sessions, home.trash, home.cache):
        folder.rmdir()
    with creating(home) as create:
        yield create


@contextmanager
def creating(home: Home) -> Iterator[Act]:
    """The first session of a home that is not there yet."""

    def create() -> None:
        engine = Engine(home)
        try:
            engine.create(counting_config(), NEWT)
        finally:
            engine.shutdown()

    yield create


def created(engine: Engine, done: bool) -> None:
    """The session is there, or there is none."""
    rows = engine.registry.fetch(queries.sessions(limit=10, states=tuple(State)))
    assert len(rows) == 1 if done else len(rows) <= 1
    for row in rows:
        assert row.name == NEWT if done else row.name in (NEWT, "recovered-counting")
        assert read_frozen(engine.home.session(row.id).config).name == "counting"


OPERATIONS = (
    Operation("save", saving, saved),
    Operation("first", saving_first, saved_first),
    Operation("finish", finishing, finished),
    Operation("trash", trashing, trashed),
    Operation("undo", undoing, undone),
    Operation("purge", purging, purged),
    Operation("migrate", migrating, migrated, program=newer),
    Operation("create", creating, created, empty=True),
    Operation("refill", refilling, created, empty=True),
)
