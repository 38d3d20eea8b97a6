"""Nobody else may look into a home: the modes of everything that a finished run has made, without a umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from forge.home import Home, is_private, prepare_home
from forge.registry import MetricsWriter, Registry, open_reader, open_writer
from tests.unit.cli.conftest import invoke, write_config


@pytest.fixture
def without_umask() -> Iterator[None]:
    """New files get what they are asked to have, no less."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(root: Path) -> list[str]:
    """What somebody else could look into, or write to."""
    found = [root, *root.rglob("*")]
    return [str(path.relative_to(root)) for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077]


@pytest.mark.usefixtures("without_umask")
def test_everything_of_a_finished_run_is_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    config = write_config(tmp_path)
    assert invoke(home, "run", str(config), "--name", "private").code == 0
    assert invoke(home, "config", "settings", "--set", "retention.max_age_days=90").code == 0
    names = {path.name for path in home.root.rglob("*") if path.is_file()}
    wanted = (
        "registry.db metrics.db log.jsonl session.yaml lease model.safetensors manifest.json state.json "
        "optimizer.safetensors card.json tokenizer.json train.bin settings.yaml"
    )
    assert set(wanted.split()) <= names
    assert open_to_others(home.root) == []
    # While it is written to, a database has two more files.
    with Registry.open(home) as registry:
        registry.write(lambda c: c.execute("UPDATE session SET note = 'x'"))
        live = sorted(path.name for path in home.root.glob("registry.db*"))
        assert live == ["registry.db", "registry.db-shm", "registry.db-wal"]
        assert open_to_others(home.root) == []


def test_a_home_that_somebody_made_with_open_permissions_is_closed(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir(mode=0o755)
    prepare_home(home)
    assert is_private(home.root)
    Registry.open(home).close()
    home.root.chmod(0o755)
    prepare_home(home)
    assert open_to_others(home.root) == []


def test_a_folder_of_other_things_is_left_as_it_is_and_told(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir(mode=0o755)
    (home.root / "thesis.txt").write_text("mine", "utf-8")
    prepare_home(home)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o755
    assert "can be looked into by others" in invoke(home, "doctor").out
    # What Forge makes in it is private all the same.
    assert all(is_private(folder) for folder in (home.sessions, home.trash, home.cache))


@pytest.mark.parametrize("writes", [False, True])
def test_databases_that_somebody_copied_with_open_permissions_are_closed(
    tmp_path: Path, writes: bool
) -> None:
    home = Home(tmp_path / "home")
    with Registry.open(home) as first, closing(MetricsWriter(metrics := home.root / "metrics.db")):
        first.write(lambda c: c.execute("UPDATE session SET note = 'x'").close())
        databases = sorted(home.root.glob("*.db*"))
        assert len(databases) == 6
        for path in databases:
            path.chmod(0o644)
        if writes:
            MetricsWriter(metrics).close()
            open_writer(home.registry, synchronous="FULL", wal_autocheckpoint=1000).close()
        else:
            open_reader(metrics).close()
            Registry.open(home).close()
        assert open_to_others(home.root) == []


def test_what_belongs_to_somebody_else_keeps_its_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    Registry.open(home).close()
    home.registry.chmod(0o640)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    Registry.open(home).close()
    assert "registry.db" in open_to_others(home.root)
