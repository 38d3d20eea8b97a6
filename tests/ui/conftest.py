"""Homes that are seeded once for all tests, and a world in which nothing differs from machine to machine.

Tests only read the shared homes; one that writes makes a home of its own with `fresh_home`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from textual.widgets import Input

from forge.home import Home, prepare_home
from forge_tui.present.disk import Disk
from tests.conftest import ROOT
from tests.e2e.terminal import Desk
from tests.ui import homes
from tests.ui.seed import PRESETS

MakeHome = Callable[[], Home]


@pytest.fixture(autouse=True)
def _same_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("NO_COLOR", "FORGE_HOME", "TMUX", "STY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    # The fields of the command palette are not ours to configure.
    monkeypatch.setattr(Input, "_toggle_cursor", lambda _: None)
    monkeypatch.setattr("forge_tui.draft.load_config", PRESETS.__getitem__)
    monkeypatch.setattr("forge_tui.screens.new.preset_names", lambda: tuple(PRESETS))
    monkeypatch.setattr("forge_tui.services.cleanup.disk", lambda _: Disk(200_000_000_000, 61_300_000_000))
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Home]:
    """A home by its name in `homes.SEEDS`, made when it is first asked for."""
    made: dict[str, Home] = {}

    def get(name: str) -> Home:
        if name not in made:
            made[name] = homes.make(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Terminals with nothing of who runs the tests in them; whatever runs there ends with the test."""
    env = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "FORGE_HOME": str(tmp_path / "home"),
        "LANG": "C.UTF-8", "TERM": "xterm-256color", "COLORTERM": "truecolor", "TZ": "UTC",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    desk = Desk(env)
    yield desk
    desk.close()


@pytest.fixture
def fresh_home(tmp_path: Path) -> Home:
    """An empty home that a test may write to."""
    home = Home(tmp_path / "home")
    prepare_home(home)
    return home
