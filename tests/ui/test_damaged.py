"""What the screens read from a damaged home: a sentence for a person, soon, and never an exception."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge.errors import ForgeError
from forge.home import Home
from forge_tui.services import estimates
from forge_tui.services.feed import SessionFeed
from forge_tui.services.listing import SessionLister
from forge_tui.services.lookup import find_session, last_line, progress_line
from forge_tui.services.store import Store
from forge_tui.state import ListQuery
from tests.ui.seed import FIRST, TINY
from tests.ui.stage import FakeClock
from tests.unit.cli.test_damaged import DAMAGES, soon

Seeded = Callable[[str], Home]


async def look(home: Home) -> str | None:
    """Everything that the screens read; the problem that the dashboard would show."""
    store = Store(home)
    feed, lister = SessionFeed(store, FakeClock()), SessionLister(store)
    try:
        await feed.default_session()
        await feed.attach(FIRST)
        # Once is nothing, twice is told.
        for _ in range(3):
            await feed.read(hosted=None)
        page = await lister.read(ListQuery(), 0)
        return feed.snapshot.problem or (page.problem if page is not None else None)
    finally:
        await store.close()


def look_from_outside(home: Home) -> None:
    """What is read before the screen opens, after it closed, and for the form."""
    progress_line(home, FIRST)
    estimates.duration(home, TINY)
    for read in (find_session, last_line):
        with suppress(ForgeError):  # a sentence
            read(home, FIRST)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("which", ["registry", "metrics"])
def test_a_damaged_database_is_a_sentence_on_the_screen(
    seeded: Seeded, tmp_path: Path, which: str, how: str
) -> None:
    home = Home(shutil.copytree(seeded("running").root, tmp_path / "home"))
    DAMAGES[how](home.registry if which == "registry" else home.session(FIRST).metrics)
    with soon(how):
        problem = asyncio.run(look(home))
        look_from_outside(home)
    if how not in ("empty", "link to nowhere", "nonsense", "times"):
        assert problem is not None
        assert "cannot be read: " in problem


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=9),
    which=st.sampled_from(["registry", "metrics"]),
)
def test_flipped_bytes_are_a_sentence_or_harmless(
    seeded: Seeded, tmp_path: Path, flips: list[tuple[float, int]], which: str
) -> None:
    home = Home(tmp_path / "flipped")
    shutil.rmtree(home.root, ignore_errors=True)
    shutil.copytree(seeded("finished").root, home.root)
    path = home.registry if which == "registry" else home.session(FIRST).metrics
    data = bytearray(path.read_bytes())
    for place, value in flips:
        data[int(place * len(data))] ^= value
    path.write_bytes(data)
    with soon(flips):
        asyncio.run(look(home))
        look_from_outside(home)
