"""What the services read: only what is newer, everything after a rewind, and never much at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from forge import locks
from forge.home import Home
from forge.registry import Heartbeat, MetricsWriter, Query, Registry, State, edits, population, queries
from forge.registry.sqlite import Connection
from forge_tui.services.feed import BATCH, BUCKETS, EVENTS_KEPT, SessionFeed
from forge_tui.services.listing import PAGE, SessionLister
from forge_tui.services.lookup import find_session, last_line, progress_line
from forge_tui.services.store import Store
from forge_tui.state import ORDERS, ListQuery, Snapshot
from tests.ui.homes import ulid
from tests.ui.seed import EVENTS, FIRST, NOW, Plan, request, seed
from tests.ui.stage import FakeClock

Seeded = Callable[[str], Home]


@pytest.fixture
async def store(fresh_home: Home) -> AsyncIterator[Store]:
    made = Store(fresh_home)
    yield made
    await made.close()


async def followed(store: Store, session: str = FIRST) -> SessionFeed:
    """A feed that has read a session once."""
    feed = SessionFeed(store, FakeClock())
    await feed.attach(session)
    assert await feed.read(hosted=None) is not None
    return feed


def metrics(home: Home) -> MetricsWriter:
    """The writer of the first session's metrics."""
    return MetricsWriter(home.session(FIRST).metrics)


def sent(store: Store) -> int:
    """SQL statements sent so far."""
    return store.registry.statements + store.metrics.statements


async def read(feed: SessionFeed) -> Snapshot:
    """The next snapshot, which must come."""
    snapshot = await feed.read(hosted=None)
    assert snapshot is not None
    return snapshot


async def test_a_snapshot_holds_the_session(store: Store) -> None:
    seed(store.home, Plan(events=EVENTS))
    snapshot = (await followed(store)).snapshot
    assert snapshot.session is not None
    assert snapshot.session.name == "swift-otter-12"
    assert [run.phase for run in snapshot.phases] == ["pretrain", "forging"]
    assert len(snapshot.events) == len(EVENTS)
    assert snapshot.view("loss").last_step == 310
    assert set(snapshot.latest) == {"loss", "lr", "grad_norm", "val"}
    assert snapshot.system["ram_total_bytes"] == 25.2e9
    assert snapshot.beat is not None
    assert snapshot.at == NOW


async def test_an_unchanged_look_is_two_pragmas(store: Store) -> None:
    seed(store.home, Plan(state=State.STOPPED))
    feed = await followed(store)
    before = sent(store)
    assert await feed.read(hosted=None) is None
    assert sent(store) - before == 2


async def test_a_live_session_is_shown_again_for_its_clock(store: Store) -> None:
    seed(store.home, Plan())
    feed = await followed(store)
    before = sent(store)
    assert await feed.read(hosted=None) is not None
    assert sent(store) - before == 2


def shown(feed: SessionFeed) -> State | None:
    """State of the session on the screen."""
    return feed.snapshot.session.state if feed.snapshot.session else None


async def test_a_session_whose_owner_died_is_shown_as_interrupted(store: Store) -> None:
    seed(store.home, Plan())
    lease = store.home.session(FIRST).lease
    with locks.hold(lease):
        feed = await followed(store)
        assert shown(feed) is State.RUNNING
        before = await store.registry.one(queries.session(FIRST))
    await feed.read(hosted=None)
    assert shown(feed) is State.INTERRUPTED
    assert feed.snapshot.session is not None
    assert not feed.snapshot.session.starting
    # It was only looked at.
    assert await store.registry.one(queries.session(FIRST)) == before


async def test_one_that_runs_here_or_whose_lease_file_is_lost_is_not(store: Store) -> None:
    seed(store.home, Plan())
    feed = await followed(store)
    assert shown(feed) is State.RUNNING
    with locks.hold(store.home.session(FIRST).lease):
        pass
    await feed.read(hosted=FIRST)
    assert shown(feed) is State.RUNNING


async def test_a_changed_look_sends_few_statements(store: Store) -> None:
    seed(store.home, Plan(gpu=True))
    feed = await followed(store)
    writer = metrics(store.home)
    writer.append([("pretrain", 311, {"loss": 3.0, "val": 1.5, "lr": 1e-3, "grad_norm": 1.0})])
    writer.append([("system", int(NOW * 1000), {"rss_bytes": 1.0, "cpu_percent": 5.0, "gpu_percent": 9.0})])
    before = sent(store)
    snapshot = await read(feed)
    writer.close()
    # Two pragmas, the series, the heartbeat, and one for each of the seven series that moved.
    assert sent(store) - before == 11
    assert snapshot.view("loss").last_step == 311
    assert snapshot.latest["lr"] == 1e-3
    assert snapshot.system["gpu_percent"] == 9.0


async def test_the_curves_of_branches_are_read_whole(store: Store) -> None:
    seed(store.home, Plan())
    feed = await followed(store)
    writer = metrics(store.home)
    writer.append([("pretrain", step, {"loss_memory": float(step)}) for step in (5, 6, 7)])
    writer.append([("pretrain", 311, {"stop_1": 0.25})])
    snapshot = await read(feed)
    writer.close()
    assert snapshot.view("loss_memory").step.tolist() == [5, 6, 7]
    assert (snapshot.latest["loss_memory"], snapshot.latest["stop_1"]) == (7.0, 0.25)


async def test_only_newer_points_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(store.home, Plan())
    feed = await followed(store)
    asked: list[object] = []
    fetch = store.metrics.fetch

    async def noting(query: Query[Any]) -> list[Any]:
        asked.append(query.params)
        return await fetch(query)

    monkeypatch.setattr(store.metrics, "fetch", noting)
    writer = metrics(store.home)
    writer.append([("pretrain", 311, {"loss": 3.25})])
    snapshot = await read(feed)
    writer.close()
    # The series before step 310 is known: what is asked for begins after it.
    assert any(310 in params for params in asked if isinstance(params, list | tuple))
    assert snapshot.view("loss").latest == 3.25


async def test_a_rewind_reads_the_series_again(store: Store) -> None:
    seed(store.home, Plan())
    feed = await followed(store)
    writer = metrics(store.home)
    writer.rewind("pretrain", {"loss": 200, "lr": 200, "grad_norm": 200, "val": 200})
    snapshot = await read(feed)
    assert snapshot.view("loss").last_step == 200
    assert len(snapshot.view("loss")) == 200
    writer.append([("pretrain", 201, {"loss": 9.0})])
    writer.close()
    snapshot = await read(feed)
    assert snapshot.view("loss").last_step == 201
    assert snapshot.latest["loss"] == 9.0


async def test_a_rewind_to_nothing_forgets_the_newest_values(store: Store) -> None:
    seed(store.home, Plan())
    feed = await followed(store)
    writer = metrics(store.home)
    writer.rewind("pretrain", {})
    writer.close()
    snapshot = await read(feed)
    assert len(snapshot.view("loss")) == 0
    assert snapshot.latest == {}


async def test_a_series_far_behind_is_read_as_buckets(store: Store) -> None:
    seed(store.home, Plan(points=3 * BATCH, step=3 * BATCH, broken_at=range(5000, 5003)))
    feed = await followed(store)
    view = feed.snapshot.view("loss")
    assert len(view) <= BUCKETS + 2
    assert view.last_step == 3 * BATCH
    assert int(view.broken.sum()) == 3
    low = np.nanmin(view.low)
    writer = metrics(store.home)
    writer.append([("pretrain", 3 * BATCH + 1, {"loss": 100.0})])
    writer.close()
    view = (await read(feed)).view("loss")
    assert (np.nanmin(view.low), np.nanmax(view.high)) == (low, 100.0)


async def test_nan_is_the_newest_value(store: Store) -> None:
    seed(store.home, Plan(broken_at=range(310, 311)))
    snapshot = (await followed(store)).snapshot
    assert math.isnan(snapshot.latest["loss"])


async def test_another_phase_can_be_looked_at(store: Store) -> None:
    seed(store.home, Plan(phase="forging", step=120))
    feed = await followed(store)
    assert feed.snapshot.phase == "forging"
    feed.choose("pretrain")
    snapshot = await read(feed)
    assert snapshot.phase == "pretrain"
    assert snapshot.view("loss").last_step == 500
    assert "lambda" not in snapshot.latest
    feed.choose(None)
    assert (await read(feed)).phase == "forging"


async def test_events_are_added_and_the_oldest_forgotten(store: Store) -> None:
    seed(store.home, Plan(events=EVENTS))
    feed = await followed(store)

    def add(number: int) -> None:
        with Registry.open(store.home) as registry:
            registry.write(partial(_events, number))

    add(3)
    assert [event.message for event in (await read(feed)).events][-3:] == ["event 0", "event 1", "event 2"]
    add(EVENTS_KEPT)
    events = (await read(feed)).events
    assert len(events) == EVENTS_KEPT
    assert events[-1].message == f"event {EVENTS_KEPT - 1}"
    assert len({event.id for event in events}) == EVENTS_KEPT


def _events(number: int, c: Connection) -> None:
    for i in range(number):
        edits.add_event(c, FIRST, kind="note", message=f"event {i}", now=NOW)


async def test_a_request_is_seen_until_it_is_answered(store: Store) -> None:
    seed(store.home, Plan())
    feed = await followed(store)
    request(store.home, FIRST, "pause")
    assert [command.kind for command in (await read(feed)).commands] == ["pause"]


async def test_metrics_may_come_later(store: Store) -> None:
    seed(store.home, Plan(state=State.CREATED, leased=True))
    feed = await followed(store)
    assert feed.snapshot.beat is None
    writer = metrics(store.home)
    beat = Heartbeat(
        at=NOW, phase="pretrain", step=1, total_steps=500, steps_per_second=1.0, tokens_per_second=2.0,
        eta_seconds=None, status="", coalesced=0,
    )  # fmt: skip
    writer.heartbeat(beat)
    assert (await read(feed)).beat == beat
    writer.close()


async def test_a_file_that_cannot_be_read_is_told_once_and_recovers(store: Store) -> None:
    seed(store.home, Plan(state=State.STOPPED))
    path = store.home.session(FIRST).metrics
    good = path.read_bytes()
    path.write_bytes(b"this is no database at all, but long enough to look like a file of one" * 20)
    feed = SessionFeed(store, FakeClock())
    await feed.attach(FIRST)
    # Once is nothing: a file that is just being made has no tables yet.
    assert await feed.read(hosted=None) is None
    assert "cannot be read" in str((await read(feed)).problem)
    assert await feed.read(hosted=None) is None
    await store.metrics.close()
    path.write_bytes(good)
    snapshot = await read(feed)
    assert snapshot.problem is None
    assert snapshot.view("loss").last_step == 310


async def test_a_broken_registry_is_told(fresh_home: Home) -> None:
    fresh_home.registry.write_bytes(b"not a registry" * 100)
    store = Store(fresh_home)
    feed = SessionFeed(store, FakeClock())
    assert await feed.default_session() is None
    await feed.attach(None)
    assert "registry cannot be read" in str(feed.snapshot.problem)
    await store.close()


async def test_the_live_session_comes_first_and_then_the_newest(store: Store) -> None:
    assert await SessionFeed(store, FakeClock()).default_session() is None
    seed(store.home, Plan(id=ulid(1), name="old", age=900, state=State.RUNNING))
    seed(store.home, Plan(id=ulid(2), name="new", age=10, state=State.STOPPED))
    feed = SessionFeed(store, FakeClock())
    assert await feed.default_session() == ulid(1)
    with Registry.open(store.home) as registry:
        registry.write(lambda c: edits.set_session_state(c, ulid(1), State.STOPPED, now=NOW))
    assert await feed.default_session() == ulid(2)


async def test_a_slow_read_of_one_session_never_ends_up_in_another(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store.home, Plan(id=ulid(1), name="long", step=400), Plan(id=ulid(2), name="short", step=20))
    feed = SessionFeed(store, FakeClock())
    await feed.attach(ulid(1))
    fetch = store.registry.fetch

    async def slow(query: Query[Any]) -> list[Any]:
        for _ in range(50):
            await asyncio.sleep(0)
        return await fetch(query)

    monkeypatch.setattr(store.registry, "fetch", slow)
    reading = asyncio.ensure_future(feed.read(hosted=None))
    await asyncio.sleep(0)
    await feed.attach(ulid(2))
    await reading
    assert feed.snapshot.session is None
    snapshot = await read(feed)
    assert snapshot.session is not None
    assert snapshot.session.name == "short"
    assert snapshot.view("loss").last_step == 20


async def test_closing_twice_is_fine_and_reading_opens_again(store: Store) -> None:
    seed(store.home, Plan())
    feed = await followed(store)
    await store.close()
    await store.close()
    feed.touch()
    assert await feed.read(hosted=FIRST) is not None
    assert feed.snapshot.hosted


# --- the list -----------------------------------------------------------------------------------------


async def test_a_page_is_read_once(seeded: Seeded) -> None:
    store = Store(seeded("crowd"))
    lister = SessionLister(store)
    query = ListQuery()
    page = await lister.read(query, 0)
    assert page is not None
    assert (len(page.rows), page.total, page.offset) == (PAGE, 10_000, 0)
    assert page.rows[0].name == "run-09999"
    before = store.registry.statements
    assert await lister.read(query, 0) is None
    assert store.registry.statements == before + 1
    lister.touch()
    assert await lister.read(query, 0) is not None
    # The version, the rows, their number, and the tags of them all at once.
    assert store.registry.statements == before + 5
    await store.close()


@pytest.mark.parametrize("order", range(len(ORDERS)))
async def test_every_order_is_sorted(seeded: Seeded, order: int) -> None:
    store = Store(seeded("several"))
    page = await SessionLister(store).read(ListQuery(order=order), 0)
    assert page is not None
    _, column, descending = ORDERS[order]
    names = {"created": "created_at", "updated": "updated_at"}
    values = [getattr(row, names.get(column, column)) for row in page.rows]
    assert values == sorted(values, reverse=descending)
    await store.close()


@pytest.mark.parametrize(
    ("search", "names"),
    [("otter", ["swift-otter-12"]), ("25m", ["rapid-lynx-71"]), ("beat rounding", ["calm-heron-40"]),
     ("100%_'", []), ("RAPID", ["rapid-lynx-71"])],
)  # fmt: skip
async def test_the_filter_looks_into_name_note_and_preset(
    seeded: Seeded, search: str, names: list[str]
) -> None:
    store = Store(seeded("several"))
    page = await SessionLister(store).read(ListQuery(search=search), 0)
    assert page is not None
    assert [row.name for row in page.rows] == names
    assert page.total == len(names)
    await store.close()


async def test_a_list_that_cannot_be_read_says_so(fresh_home: Home) -> None:
    fresh_home.registry.write_bytes(b"not a registry" * 100)
    store = Store(fresh_home)
    page = await SessionLister(store).read(ListQuery(), 0)
    assert page is not None
    assert "registry cannot be read" in str(page.problem)
    await store.close()


# --- before and after the screen ----------------------------------------------------------------------


def test_a_session_is_found_by_name_id_or_beginning(seeded: Seeded) -> None:
    home = seeded("several")
    find = partial(find_session, home)
    assert find("calm-heron-40") == find(ulid(1)) == ulid(1)
    assert find(ulid(1)[:26]) == ulid(1)
    for text, said in (("nothing", "there is no session"), (ulid(1)[:10], "fits 6 sessions")):
        with pytest.raises(Exception, match=said):
            find(text)


def test_a_progress_line_is_plain(seeded: Seeded) -> None:
    home = seeded("running")
    assert progress_line(home, FIRST).startswith("Pre-training step 310 of 500, 46 s left")
    assert progress_line(home, "01JABCDEFGHJKMNPQRSTVWXYZ9") == "starting"


@pytest.mark.parametrize(
    ("name", "beginning", "failed"),
    [
        ("finished", "swift-otter-12 is completed. Its report: forge-tui swift-otter-12.", False),
        ("failed", "swift-otter-12 failed: ", True),
        ("interrupted", "swift-otter-12 is interrupted; forge resume swift-otter-12", False),
    ],
)
def test_the_last_line_says_how_it_ended(seeded: Seeded, name: str, beginning: str, failed: bool) -> None:
    line, wrong = last_line(seeded(name), FIRST)
    assert line.startswith(beginning)
    assert wrong is failed


def test_a_progress_line_says_what_goes_on_outside_the_steps(seeded: Seeded) -> None:
    line = progress_line(seeded("measuring"), FIRST)
    assert "left" not in line
    assert ", measuring" in line


async def test_a_population_is_read_with_the_phase_that_evolves_it(store: Store) -> None:
    seed(store.home, Plan(phase="evomerge", step=26, phases=(("pretrain", 500), ("evomerge", 35))))
    feed = await followed(store)
    found = (await read(feed)).population
    assert [row.name for row in found[:2]] == ["3.2", "3.1"]
    assert sum(row.fitness is None for row in found) == 3
    with Registry.open(store.home) as registry:
        registry.write(lambda c: population.set_fitness(c, FIRST, "evomerge", "3.6", 0.9, {}, 1.0))
    assert (await read(feed)).population[0].name == "3.6"
    feed.choose("pretrain")
    assert (await read(feed)).population == ()
