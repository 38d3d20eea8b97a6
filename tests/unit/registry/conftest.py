"""A private home per test, and a registry with one session in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.home import Home
from forge.registry import MetricsWriter, Registry, edits

SESSION = "01JABCDEFGHJKMNPQRSTVWXYZ0"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def registry(home: Home) -> Iterator[Registry]:
    with Registry.open(home) as opened:
        yield opened


@pytest.fixture
def session(registry: Registry) -> str:
    phases = [("pretrain", 100), ("forging", 50)]
    registry.write(
        lambda c: edits.create_session(c, id=SESSION, name="otter", preset="tiny", phases=phases, now=1.0)
    )
    return SESSION


@pytest.fixture
def metrics_path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.db"


@pytest.fixture
def writer(metrics_path: Path) -> Iterator[MetricsWriter]:
    opened = MetricsWriter(metrics_path)
    yield opened
    opened.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections opened from now on wait for a lock for 50 ms only."""
    monkeypatch.setattr("forge.registry.sqlite.BUSY_TIMEOUT_MS", 50)
