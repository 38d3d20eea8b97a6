"""Deleting for good: files and rows go, the record stays, and the room comes back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forge.errors import RegistryError
from forge.registry import Registry, State, TrashRow, cleanup, edits
from forge.registry.sqlite import one_value
from forge.retention import (
    Purged,
    SessionCleanupPolicy,
    Swept,
    execute,
    expired,
    plan,
    purge,
    sweep,
    undo,
)
from forge.retention.policy import DAY
from tests.unit.retention.conftest import NOW, World, names, tree

POLICY = SessionCleanupPolicy(max_sessions_retained=None, max_age_days=30)


def trash(world: World) -> list[TrashRow]:
    """Trash everything that is old; what is in the trash then."""
    execute(world.home, world.registry, plan(world.home, world.registry, POLICY, NOW), actor="me", now=NOW)
    return world.registry.fetch(cleanup.trash())


def empty(world: World, rows: list[TrashRow]) -> Purged:
    return purge(world.home, world.registry, rows, actor="me", now=NOW + 5)


def test_files_and_rows_go_and_the_record_stays(world: World) -> None:
    old, young = world.add(1, days=40, checkpoint=True, tags=["a"], size=5000), world.add(2)
    kept = world.rows(young), tree(world.home.sessions / young)
    size = sum(p.stat().st_size for p in (world.home.sessions / old).rglob("*") if p.is_file())
    purged = empty(world, trash(world))
    assert [row.name for row in purged.sessions] == ["s1"]
    assert (purged.skipped, purged.file_bytes, purged.notice) == ((), size, None)
    assert purged.bytes == size + purged.registry_bytes
    assert not any(world.rows(old).values())
    assert names(world.home.trash) == []
    assert (world.rows(young), tree(world.home.sessions / young)) == kept
    records = world.registry.fetch(cleanup.audit(10, old))
    assert [r.action for r in records] == ["purged", "purge", "trash"]
    assert (records[0].bytes, records[0].path, records[0].detail) == (size, f"trash/{old}", "s1")
    world.agree()


def test_the_registry_gives_its_room_back(world: World) -> None:
    id = world.add(1, days=40)

    def fill(number: int) -> None:
        world.registry.write(
            lambda c: [edits.add_event(c, id, kind="k", message="x" * 3000, now=NOW) for _ in range(500)]
        )

    for number in range(20):
        fill(number)
    wal = world.home.registry.with_name("registry.db-wal")
    before = world.home.registry.stat().st_size
    purged = empty(world, trash(world))
    assert before > 25_000_000
    assert purged.registry_bytes > 25_000_000
    assert world.home.registry.stat().st_size < 1_000_000
    assert wal.stat().st_size == 0
    assert world.registry.write(lambda c: one_value(c, "PRAGMA freelist_count")) == 0


def test_files_with_another_name_free_nothing(world: World, tmp_path: Path) -> None:
    id = world.add(1, days=40)
    weights = world.home.session(id).root / "models" / "m" / "model.safetensors"
    os.link(weights, tmp_path / "my-copy")
    os.link(weights, weights.with_name("inside"))
    (row,) = trash(world)
    measured = empty(world, [row]).file_bytes
    assert measured == row.bytes - (tmp_path / "my-copy").stat().st_size
    assert (tmp_path / "my-copy").exists()


def test_two_names_inside_count_once(world: World) -> None:
    id = world.add(1, days=40)
    weights = world.home.session(id).root / "models" / "m" / "model.safetensors"
    size = plan(world.home, world.registry, POLICY, NOW).bytes_to_trash
    os.link(weights, weights.with_name("again"))
    (row,) = trash(world)
    assert row.bytes == size
    assert empty(world, [row]).file_bytes == size


def test_links_are_removed_and_never_followed(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x" * 100_000)
    id = world.add(1, days=40)
    root = world.home.session(id).root
    (root / "link").symlink_to(outside)
    (root / "models" / "file").symlink_to(outside / "precious")
    (row,) = trash(world)
    assert row.bytes < 5000
    assert empty(world, [row]).file_bytes < 5000
    assert names(world.home.trash) == []
    assert (outside / "precious").stat().st_size == 100_000


def test_what_is_not_in_the_trash_is_not_deleted(world: World) -> None:
    id = world.add(1, days=40)
    (row,) = trash(world)
    undo(world.home, world.registry, id, actor="me", now=NOW)
    before = world.rows(id), tree(world.home.sessions)
    purged = empty(world, [row])
    assert purged.sessions == ()
    assert "in the trash" in purged.skipped[0][1]
    assert (world.rows(id), tree(world.home.sessions)) == before


def test_the_parent_of_a_kept_session_is_not_deleted(world: World) -> None:
    world.add(1, days=40)
    (row,) = trash(world)
    world.add(2, parents=[1])
    purged = empty(world, [row])
    assert [why for _, why in purged.skipped] == ["s2 descends from it"]
    assert not world.registry.fetch(cleanup.trash())[0].purging


def test_twice_is_harmless(world: World) -> None:
    world.add(1, days=40)
    rows = trash(world)
    empty(world, rows)
    again = empty(world, rows)
    assert (again.sessions, again.file_bytes) == ((), 0)


def test_one_that_cannot_go_leaves_the_others(world: World) -> None:
    bad, good = world.add(1, days=40), world.add(2, days=40)
    rows = trash(world)
    (world.home.trash / bad / "session.yaml").unlink()
    purged = empty(world, rows)
    assert [row.session_id for row in purged.sessions] == [good]
    assert "has no session.yaml" in purged.skipped[0][1]
    assert world.trashed() == [bad]


def test_rows_whose_files_a_person_deleted_go_too(world: World) -> None:
    id = world.add(1, days=40)
    (row,) = trash(world)
    (world.home.trash / id).rename(world.home.root / "elsewhere")
    assert empty(world, [row]).file_bytes == 0
    assert world.states() == {}


def test_what_frees_no_room_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(1, days=40)

    def busy(self: Registry) -> int:
        raise RegistryError("locked")

    rows = trash(world)
    monkeypatch.setattr(Registry, "compact", busy)
    purged = empty(world, rows)
    assert len(purged.sessions) == 1
    assert purged.notice == "the registry keeps its room until the next time: locked"


def test_the_grace_period(world: World) -> None:
    world.add(1, days=40)
    trash(world)
    assert expired(world.registry, NOW + 6.9 * DAY) == []
    assert [row.name for row in expired(world.registry, NOW + 7 * DAY)] == ["s1"]
    assert [row.name for row in expired(world.registry, NOW, 0)] == ["s1"]


# --- by itself ------------------------------------------------------------------------------------------


def test_a_sweep_trashes_and_deletes_only_after_the_grace_period(world: World) -> None:
    old, young = world.add(1, days=40), world.add(2)
    swept = sweep(world.home, world.registry, POLICY, now=NOW)
    assert swept.purged is None
    assert world.states() == {old: State.TRASHED, young: State.COMPLETED}
    sentence = swept.sentence() or ""
    assert sentence.startswith("cleanup moved 1 session (")
    assert "to the trash: s1 (ended 40 d ago, the limit is 30 days)" in sentence
    assert world.registry.fetch(cleanup.audit(1))[0].actor == "retention.auto"
    quiet = sweep(world.home, world.registry, POLICY, now=NOW + 6 * DAY)
    assert quiet.sentence() is None
    later = sweep(world.home, world.registry, POLICY, now=NOW + 7 * DAY)
    assert "deleted 1 session that had been in the trash" in (later.sentence() or "")
    assert world.states() == {young: State.COMPLETED}
    world.agree()


def test_a_sweep_names_a_few_and_counts_the_rest(world: World) -> None:
    for number in range(8):
        world.add(number, days=40)
    text = sweep(world.home, world.registry, POLICY, now=NOW).sentence()
    assert text is not None
    assert text.endswith("; and 3 more")


# --- a clock that jumps ---------------------------------------------------------------------------------


def swept(world: World, days: float) -> Swept:
    """A sweep so many days after `NOW`."""
    return sweep(world.home, world.registry, POLICY, now=NOW + days * DAY)


def lived(world: World, id: str, days: float) -> None:
    """A run tells of itself, as it does at each checkpoint."""
    world.registry.write(
        lambda c: edits.add_event(c, id, kind="checkpoint", message="written", now=NOW + days * DAY)
    )


def test_a_clock_that_jumps_cleans_nothing(world: World) -> None:
    old, young = world.add(1, days=40), world.add(2)
    swept(world, 0)
    before = {old: State.TRASHED, young: State.COMPLETED}
    jumped = swept(world, 365)
    assert (jumped.purged, jumped.outcome, jumped.sentence()) == (None, None, None)
    assert jumped.doubt is not None
    assert jumped.doubt.news
    text = jumped.postponed() or ""
    assert "cleanup waits until " in text
    assert "nothing was done here for 365 d 00 h, and a clock that was set wrong would say so too" in text
    for days in (365.1, 371.9):
        again = swept(world, days)
        assert again.doubt is not None
        assert not again.doubt.news
    assert world.states() == before
    # Set right again: the seven days in the trash are those that passed.
    assert swept(world, 6.9).doubt is None
    assert world.states() == before
    assert "deleted 1 session" in (swept(world, 7).sentence() or "")


def test_a_home_that_was_not_used_for_long_is_cleaned_a_grace_period_later(world: World) -> None:
    world.add(1, days=20)
    assert swept(world, 0).doubt is None
    assert swept(world, 60).doubt is not None
    later = swept(world, 67)
    assert later.doubt is None
    assert "moved 1 session" in (later.sentence() or "")
    assert swept(world, 74).doubt is None


def test_a_clock_that_jumps_again_is_doubted_again(world: World) -> None:
    world.add(1, days=20)
    swept(world, 0)
    for jump in (365, 5, 300, 20):
        found = swept(world, jump).doubt
        assert (found is None) == (jump == 5)
        assert found is None or (found.news, found.until) == (True, NOW + (jump + 7) * DAY)
    assert world.trashed() == []


def test_a_long_run_is_no_jump(world: World) -> None:
    world.add(1, days=20)
    running = world.add(2, State.RUNNING, days=0)
    swept(world, 0)
    for days in range(0, 40, 5):
        lived(world, running, days)
    assert "moved 1 session" in (swept(world, 40).sentence() or "")


def test_a_clock_that_jumps_within_a_run_is_doubted(world: World) -> None:
    world.add(1, days=20)
    running = world.add(2, State.RUNNING, days=0)
    swept(world, 0)
    for days in (0, 1, 366, 367):
        lived(world, running, days)
    found = swept(world, 368).doubt
    assert found is not None
    assert found.silence == 365 * DAY
    assert world.trashed() == []
