"""Nobody else may look into a home: the modes of everything that a finished run has made, without a umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.home import Home, is_private, prepare_home
from forge.registry import Registry
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
