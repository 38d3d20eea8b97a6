"""What the dashboard shows of one session, read little by little into one frozen snapshot.

A look at an unchanged session costs two pragmas; a changed one asks only for rows newer than those at hand.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from forge import locks
from forge.config import SEARCHED_PHASES
from forge.errors import ForgeError
from forge.home import is_id
from forge.registry import LIVE, Error, EventRow, SeriesRow, State, metrics, population, queries
from forge_tui.charts.series import Series, SeriesView
from forge_tui.ports import Clock
from forge_tui.present.curves import BRANCH_LOSSES
from forge_tui.present.machine import WINDOW_SECONDS
from forge_tui.services.store import Store
from forge_tui.state import SYSTEM, Snapshot, current_phase

EVENTS_KEPT = 500
MEMBERS = 500
"""Most individuals of a population that are read."""
BUCKETS = 2048
BATCH = 4000
"""A series that is further behind than this is read as buckets."""
CHARTED = ("loss", "train_bpb", "val", *BRANCH_LOSSES, "best", "mean", "worst", "diversity")
CHARTED_SYSTEM = ("gpu_process_bytes", "torch_reserved_bytes", "rss_bytes")


class SessionFeed:
    """Follows one session."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._session_id: str | None = None
        self._chosen: str | None = None
        self._series: dict[tuple[str, str], Series] = {}
        self._latest: dict[tuple[str, str], tuple[tuple[int, int], float]] = {}
        """(phase, series) to ((epoch, step), newest value)."""
        self._stale = True
        self._failures = 0
        self._unread: str | None = None
        # What a slow read of one session finds must not end up in another.
        self._one_at_a_time = asyncio.Lock()
        self.snapshot = Snapshot()

    @property
    def session_id(self) -> str | None:
        """The session that is followed."""
        return self._session_id

    async def attach(self, session_id: str | None) -> None:
        """Follow another session."""
        async with self._one_at_a_time:
            self._session_id, self._chosen = session_id, None
            self._series, self._latest = {}, {}
            self.snapshot = Snapshot(at=self._clock(), problem=None if session_id else self._unread)
            self._stale = True
            # An id that Forge never makes, as a damaged registry may have, leads nowhere.
            own = session_id if session_id is not None and is_id(session_id) else None
            path = self._store.home.session(own).metrics if own else None
            await self._store.metrics.point_at(path)

    def choose(self, phase: str | None) -> None:
        """Look at one phase, or at whichever runs."""
        self._chosen, self._stale = phase, True

    def touch(self) -> None:
        """Read everything again at the next look, because somebody else may have seen the change."""
        self._stale = True

    def forget_making(self) -> None:
        """The session that was being made did not come to be."""
        if self.snapshot.making:
            self.snapshot = replace(self.snapshot, making="")

    async def default_session(self) -> str | None:
        """The id of the live session that changed last, else of the newest one."""
        registry = self._store.registry
        try:
            live = await registry.fetch(queries.sessions(limit=1, states=tuple(LIVE), order="updated"))
            found = live or await registry.fetch(queries.sessions(limit=1))
        except (Error, ForgeError) as error:
            self._unread = f"the registry cannot be read: {error}"
            return None
        return found[0].id if found else None

    async def read(self, *, hosted: str | None) -> Snapshot | None:
        """A new snapshot, or none when nothing that is shown has changed."""
        async with self._one_at_a_time:
            return None if self._session_id is None else await self._read(hosted)

    async def _read(self, hosted: str | None) -> Snapshot | None:
        before = self.snapshot
        here = hosted == self._session_id
        forced, self._stale = self._stale, False
        try:
            moved = await self._read_registry(forced)
            moved |= await self._read_metrics(forced or moved)
            moved |= not here and await self._read_owner()
        except (Error, ForgeError) as error:
            self._stale = True
            self._failures += 1
            problem = f"the session cannot be read: {error}"
            # Once is nothing: a file that is just being made has no tables yet.
            if self._failures < 2 or problem == before.problem:
                return None
            self.snapshot = replace(before, at=self._clock(), problem=problem)
            return self.snapshot
        self._failures = 0
        session = self.snapshot.session
        # A live session's clock runs on even when nothing else moves.
        live = session is not None and session.state in LIVE
        if not (moved or forced or live or here != before.hosted or before.problem):
            return None
        self.snapshot = replace(self.snapshot, at=self._clock(), hosted=here, problem=None)
        return self.snapshot

    async def _read_registry(self, forced: bool) -> bool:
        assert self._session_id is not None
        registry = self._store.registry
        if not (await registry.changed() or forced):
            return False
        session = await registry.one(queries.session(self._session_id))
        phases = tuple(await registry.fetch(queries.phase_runs(self._session_id)))
        commands = tuple(await registry.fetch(queries.open_commands(self._session_id)))
        phase = self._chosen or current_phase(session, phases)
        evolves = phase in SEARCHED_PHASES
        members = population.standings(self._session_id, phase, MEMBERS) if phase and evolves else None
        self.snapshot = replace(
            self.snapshot,
            session=session,
            phases=phases,
            commands=commands,
            events=await self._read_events(self._session_id),
            phase=phase,
            population=tuple(await registry.fetch(members)) if members else (),
        )
        return True

    async def _read_owner(self) -> bool:
        """Show a session whose owner died as interrupted, also where nobody may write that down."""
        if not self._is_abandoned():
            return False
        # It may just have ended, and said so since it was read.
        await self._read_registry(True)
        session = self.snapshot.session
        if session is not None and self._is_abandoned():
            dead = session.model_copy(update={"state": State.INTERRUPTED, "lease": None})
            self.snapshot = replace(self.snapshot, session=dead)
        return True

    def _is_abandoned(self) -> bool:
        session = self.snapshot.session
        if session is None or session.state not in LIVE or not is_id(session.id):
            return False
        lease = self._store.home.session(session.id).lease
        try:
            # A lease file that is not there says nothing: its owner puts it back.
            return lease.exists() and not locks.is_held(lease)
        except OSError:
            return False

    async def _read_events(self, session_id: str) -> tuple[EventRow, ...]:
        known = self.snapshot.events
        if not known:
            return tuple(await self._store.registry.fetch(queries.latest_events(session_id, EVENTS_KEPT)))
        newer = await self._store.registry.fetch(queries.events_after(session_id, known[-1].id, EVENTS_KEPT))
        return (*known, *newer)[-EVENTS_KEPT:] if newer else known

    async def _read_metrics(self, forced: bool) -> bool:
        source = self._store.metrics
        if not (await source.changed() or forced):
            return False
        phase = self.snapshot.phase
        for row in await source.fetch(metrics.series(None)):
            if row.phase not in (phase, SYSTEM):
                continue
            if row.name in (CHARTED_SYSTEM if row.phase == SYSTEM else CHARTED):
                await self._catch_up(row)
            else:
                await self._read_latest(row)
        beat = await source.one(metrics.heartbeat())
        self.snapshot = replace(
            self.snapshot,
            beat=beat,
            series=self._views(phase),
            latest=self._latest_of(phase),
            system=self._latest_of(SYSTEM),
            system_series=self._views(SYSTEM),
        )
        return True

    def _views(self, phase: str | None) -> dict[str, SeriesView]:
        return {name: series.view() for (owner, name), series in self._series.items() if owner == phase}

    def _latest_of(self, phase: str | None) -> dict[str, float]:
        return {name: value for (owner, name), (_, value) in self._latest.items() if owner == phase}

    async def _read_latest(self, row: SeriesRow) -> None:
        """Only the newest value, for what is shown as a number."""
        key, last = (row.phase, row.name), row.last_step
        if last is None:
            self._latest.pop(key, None)
        elif self._latest.get(key, ((-1, -1), 0.0))[0] != (row.epoch, last):
            for point in await self._store.metrics.fetch(metrics.points_after(row.id, last - 1, 1)):
                self._latest[key] = ((row.epoch, last), point.value)

    async def _catch_up(self, row: SeriesRow) -> None:
        series = self._series.setdefault((row.phase, row.name), Series())
        if series.epoch != row.epoch:
            series.clear()
            series.epoch = row.epoch
            self._latest.pop((row.phase, row.name), None)
        last = row.last_step
        if last is None or last <= series.last_step:
            return
        after = series.last_step
        if row.phase == SYSTEM:
            after = max(after, last - WINDOW_SECONDS * 1000)
        elif last - after > BATCH:
            found = await self._store.metrics.fetch(metrics.buckets(row.id, after + 1, last - 1, BUCKETS))
            series.extend_buckets(found)
            after = last - 1
        series.extend(await self._store.metrics.fetch(metrics.points_after(row.id, after, BATCH)))
        self._latest[row.phase, row.name] = ((row.epoch, last), series.view().latest)
