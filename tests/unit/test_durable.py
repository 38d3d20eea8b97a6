"""Durable effects: complete, private, and never half done where others can see it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from forge import durable


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were synced, in order."""
    names: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def test_a_file_is_written_whole_private_and_synced(tmp_path: Path, synced: list[str]) -> None:
    path = tmp_path / "file"
    durable.write_file(path, b"x" * 100_000)
    assert path.read_bytes() == b"x" * 100_000
    assert path.stat().st_mode & 0o777 == 0o600
    assert synced == ["file"]
    durable.write_file(path, b"short")
    assert path.read_bytes() == b"short"


def test_a_disk_that_takes_little_at_a_time_gets_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    durable.write_file(tmp_path / "file", b"0123456789" * 10)
    assert (tmp_path / "file").read_bytes() == b"0123456789" * 10


def test_folders_are_private_and_each_new_name_is_synced(tmp_path: Path, synced: list[str]) -> None:
    durable.make_folder(tmp_path / "a" / "b" / "c")
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o700 for name in ("a", "a/b", "a/b/c"))
    assert synced == [tmp_path.name, "a", "b"]
    durable.make_folder(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3


def test_a_move_syncs_where_it_arrives(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "file").write_text("x")
    durable.move(tmp_path / "file", tmp_path / "to" / "file")
    assert (tmp_path / "to" / "file").read_text() == "x"
    assert synced == ["to", tmp_path.name]


def test_a_replaced_file_is_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: list[str]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    durable.replace_file(path, b"new")
    assert path.read_text() == "new"
    assert synced[0].startswith(".file.tmp-")
    assert synced[1:] == [tmp_path.name]

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        durable.replace_file(path, b"newest")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_tree_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "link").symlink_to(precious)
    durable.remove_tree(tree)
    (tmp_path / "link").symlink_to(precious)
    durable.remove_tree(tmp_path / "link")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    durable.remove_tree(tmp_path / "dangling")
    os.mkfifo(tmp_path / "pipe")
    durable.remove_tree(tmp_path / "pipe")
    durable.remove_tree(tmp_path / "never" / "there")
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]
    assert (precious / "file").read_text() == "x"


@pytest.mark.parametrize("known", [True, False])
def test_where_fsync_stops_at_the_drive_the_full_one_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: list[str], known: bool
) -> None:
    asked: list[Any] = []

    def control(descriptor: int, command: int) -> int:
        asked.append(command)
        if not known:
            raise OSError(45, "Operation not supported")
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    durable.write_file(tmp_path / "file", b"x")
    assert asked == [51]
    assert synced == ([] if known else ["file"])
