"""A private home with one session in it, and the process's tensor settings put back after each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from forge import durable
from forge.engine import Engine
from forge.home import Home
from forge.registry import Connection, Registry, sqlite
from tests.unit.engine.rig import Rig, counting_config


@pytest.fixture(autouse=True)
def tensor_settings() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def without_waiting_for_the_medium(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests end processes, not machines: what the kernel has is kept."""
    monkeypatch.setattr(durable, "_sync", lambda descriptor: None)
    real = sqlite.open_writer

    def open_writer(path: Path, **recipe: Any) -> Connection:
        connection = real(path, **recipe)
        connection.execute("PRAGMA synchronous=OFF").close()
        return connection

    monkeypatch.setattr(sqlite, "open_writer", open_writer)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    opened = Engine(home)
    yield opened
    opened.shutdown()


@pytest.fixture
def registry(engine: Engine) -> Registry:
    return engine.registry


@pytest.fixture
def session(engine: Engine) -> str:
    """A session of two phases that do not exist yet as files."""
    return engine.create(counting_config(), name="otter")


@pytest.fixture
def rig(engine: Engine, session: str) -> Rig:
    return Rig(engine, session)
