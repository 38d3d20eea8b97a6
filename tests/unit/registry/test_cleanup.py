"""Trash, tags, lineage and audit in the registry, and the room that a purge gives back."""

from __future__ import annotations

from contextlib import closing

import pytest

from forge.errors import ForgeError, IllegalTransitionError, NotFoundError, RegistryError
from forge.registry import Connection, ModelRow, Registry, State, TrashRow, cleanup, edits, queries, sqlite
from forge.registry.sqlite import one_value


def add(registry: Registry, name: str, parents: tuple[str, ...] = ()) -> str:
    """A session with one model, whose parents are the models of others."""
    row = ModelRow(id=f"model of {name}", session_id=name, phase="pretrain", name="m", created_at=1.0,
                   parameters=1, bytes=1, path="p", metrics={})  # fmt: skip

    def rows(c: Connection) -> None:
        edits.create_session(c, id=name, name=name, preset="tiny", phases=[("pretrain", 1)], now=1.0)
        edits.add_model(c, row, {f"model of {parent}": 0.5 for parent in parents})

    registry.write(rows)
    return name


def trash(registry: Registry, id: str, now: float = 5.0) -> TrashRow:
    return registry.write(
        lambda c: cleanup.trash_session(c, id, actor="me", reason="old", bytes=7, path="sessions/x", now=now)
    )


def restore(registry: Registry, id: str) -> State:
    return registry.write(
        lambda c: cleanup.restore_session(c, id, actor="you", path="trash/x", now=6.0)
    ).state


@pytest.mark.parametrize(
    "state", [State.CREATED, State.COMPLETED, State.FAILED, State.STOPPED, State.INTERRUPTED]
)
def test_every_state_that_may_be_trashed_comes_back(registry: Registry, session: str, state: State) -> None:
    registry.write(lambda c: c.execute("UPDATE session SET state = ?", [str(state)]).rowcount)
    before = registry.one(queries.session(session))
    row = trash(registry, session)
    assert (row.state_before, row.name, row.trashed_at, row.purging) == (state, "otter", 5.0, False)
    assert registry.one(cleanup.trashed(session)) == row
    assert registry.fetch(queries.sessions(limit=10)) == []
    assert restore(registry, session) is state
    assert registry.one(queries.session(session)) == before
    assert registry.one(cleanup.trashed(session)) is None


@pytest.mark.parametrize("state", [State.RUNNING, State.PAUSED, State.TRASHED])
def test_a_live_session_is_never_trashed(registry: Registry, session: str, state: State) -> None:
    registry.write(lambda c: c.execute("UPDATE session SET state = ?", [str(state)]).rowcount)
    with pytest.raises(IllegalTransitionError):
        trash(registry, session)
    assert registry.fetch(cleanup.trash()) == []
    assert registry.fetch(cleanup.audit(10)) == []


def test_a_purge_has_an_order(registry: Registry, session: str) -> None:
    def begin(c: Connection) -> TrashRow:
        return cleanup.begin_purge(c, session, actor="me", path="p", now=7.0)

    def end(c: Connection) -> None:
        cleanup.end_purge(c, session, actor="me", path="p", bytes=3, now=8.0)

    for early in (begin, end):
        with pytest.raises(NotFoundError, match="in the trash"):
            registry.write(early)
    trash(registry, session)
    with pytest.raises(ForgeError, match="not deleted yet"):
        registry.write(end)
    assert registry.write(begin).purging
    with pytest.raises(ForgeError, match="cannot be brought back"):
        restore(registry, session)
    assert registry.write(begin).purging  # again, after a crash
    registry.write(end)
    assert registry.one(queries.session(session)) is None
    assert registry.fetch(queries.phase_runs(session)) == []
    records = registry.fetch(cleanup.audit(10, session))
    assert [(r.action, r.bytes, r.at) for r in records] == [
        ("purged", 3, 8.0), ("purge", 7, 7.0), ("trash", 7, 5.0)
    ]  # fmt: skip


def test_the_trash_is_listed_newest_first_and_bounded(registry: Registry) -> None:
    for number, name in enumerate(("a", "b", "c")):
        add(registry, name)
        trash(registry, name, now=float(number))
    assert [row.name for row in registry.fetch(cleanup.trash(2))] == ["c", "b"]


def test_candidates_carry_what_decides(registry: Registry) -> None:
    for name in ("a", "b", "c"):
        add(registry, name)
    registry.write(lambda c: cleanup.set_tags(c, "a", [" paper ", "", "draft", "paper"], 9.0))
    registry.write(
        lambda c: edits.add_checkpoint(c, "b", phase="pretrain", step=1, path="p", bytes=1, seconds=0, now=1)
    )
    trash(registry, "c")
    found = {row.session.id: row for row in registry.fetch(cleanup.candidates())}
    assert found.keys() == {"a", "b"}
    assert (found["a"].tags, found["a"].has_checkpoint, found["a"].restored_at) == (
        ("draft", "paper"), False, None
    )  # fmt: skip
    assert found["a"].session.updated_at == 9.0
    assert (found["b"].tags, found["b"].has_checkpoint) == ((), True)
    restore(registry, "c")
    assert [row.restored_at for row in registry.fetch(cleanup.candidates("c"))] == [6.0]
    registry.write(lambda c: cleanup.set_tags(c, "a", [], 9.0))
    assert registry.fetch(cleanup.candidates("a"))[0].tags == ()
    with pytest.raises(NotFoundError):
        registry.write(lambda c: cleanup.set_tags(c, "nobody", ["x"], 9.0))


def test_lineage_between_sessions(registry: Registry) -> None:
    for name, parents in (("a", ()), ("b", ("a",)), ("c", ("b", "a", "purged"))):
        add(registry, name, parents)
    assert sorted(registry.fetch(cleanup.lineage())) == [("b", "a"), ("c", "a"), ("c", "b")]
    assert registry.fetch(cleanup.kept_child("c")) == []
    assert registry.fetch(cleanup.kept_child("b")) == ["c"]
    trash(registry, "c")
    assert registry.fetch(cleanup.kept_child("b")) == []
    assert registry.fetch(cleanup.kept_child("a")) == ["b"]
    trash(registry, "b")
    trash(registry, "a")
    assert registry.fetch(cleanup.trashed_ancestors("c")) == ["a", "b"]
    assert registry.fetch(cleanup.trashed_ancestors("a")) == []
    restore(registry, "a")
    assert registry.fetch(cleanup.trashed_ancestors("c")) == ["b"]


def test_ancestors_of_a_family_in_a_circle_end(registry: Registry) -> None:
    add(registry, "a", ("b",))
    add(registry, "b", ("a",))
    for name in ("a", "b"):
        trash(registry, name)
    assert registry.fetch(cleanup.trashed_ancestors("a")) == ["b"]


def test_a_missing_folder_is_told_once(registry: Registry, session: str) -> None:
    assert registry.write(lambda c: cleanup.mark_missing(c, session, "gone", 2.0))
    assert not registry.write(lambda c: cleanup.mark_missing(c, session, "gone", 3.0))
    assert len(registry.fetch(queries.latest_events(session, 10))) == 1


def test_hostile_text_is_kept_as_text(registry: Registry, session: str) -> None:
    registry.write(
        lambda c: cleanup.trash_session(
            c, session, actor="\udcff", reason="'; DROP TABLE audit; --", bytes=1 << 80, path="a\0b", now=1.0
        )
    )
    (record,) = registry.fetch(cleanup.audit(1))
    assert (record.actor, record.path) == ("\\udcff", "a\\x00b")
    assert record.bytes == (1 << 63) - 1
    assert registry.fetch(cleanup.audit(5, "' OR 1=1 --")) == []


def test_compacting_gives_room_back_and_empties_the_wal(registry: Registry, session: str) -> None:
    def fill(c: Connection) -> None:
        for _ in range(3000):
            edits.add_event(c, session, kind="k", message="x" * 3000, now=1.0)

    registry.write(fill)
    registry.write(lambda c: c.execute("DELETE FROM event").rowcount)
    wal = registry.path.with_name(registry.path.name + "-wal")
    before = registry.path.stat().st_size + wal.stat().st_size
    freed = registry.compact()
    assert freed > 9_000_000
    assert registry.path.stat().st_size + wal.stat().st_size == before - freed
    assert wal.stat().st_size == 0
    assert registry.write(lambda c: one_value(c, "PRAGMA freelist_count")) == 0
    assert registry.compact() == 0
    assert registry.one(queries.session(session)) is not None


@pytest.mark.usefixtures("impatient")
def test_compacting_beside_a_writer_says_so(registry: Registry, session: str) -> None:
    def fill(c: Connection) -> None:
        for _ in range(100):
            edits.add_event(c, session, kind="k", message="x" * 3000, now=1.0)

    registry.write(fill)
    registry.write(lambda c: c.execute("DELETE FROM event").rowcount)
    with (
        closing(sqlite.open_writer(registry.path, synchronous="FULL", wal_autocheckpoint=0)) as other,
        sqlite.transaction(other),
        pytest.raises(RegistryError, match="locked"),
    ):
        registry.compact()
    assert registry.compact() > 0
