"""Where everything lies: found, made private, and refused in words where it cannot work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forge import home as homes
from forge.errors import HomeError
from forge.home import Home, filesystem_type, prepare_home, resolve_home


def test_the_argument_wins_then_the_variable_then_the_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "variable"))
    assert resolve_home(tmp_path / "argument").root == tmp_path / "argument"
    assert resolve_home().root == tmp_path / "variable"
    monkeypatch.setenv("FORGE_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_home().root.name == "forge"
    assert tmp_path in resolve_home().root.parents


def test_two_names_of_one_folder_are_one_home(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert resolve_home(tmp_path / "link") == resolve_home(tmp_path / "real" / ".." / "real")


def test_a_tilde_is_the_home_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_home(Path("~/forge")).root == tmp_path / "forge"
    with pytest.raises(HomeError, match=r'"~nobody-here-has-this-name/x".*FORGE_HOME'):
        resolve_home(Path("~nobody-here-has-this-name/x"))


def test_everything_lies_below_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    paths = home.session("01ARZ3NDEKTSV4RRFFQ69G5FAV")
    below = {
        home.registry: "registry.db",
        home.trash: "trash",
        home.cache: "cache",
        paths.config: "sessions/01ARZ3NDEKTSV4RRFFQ69G5FAV/session.yaml",
        paths.metrics: "sessions/01ARZ3NDEKTSV4RRFFQ69G5FAV/metrics.db",
        paths.log: "sessions/01ARZ3NDEKTSV4RRFFQ69G5FAV/log.jsonl",
        paths.lease: "sessions/01ARZ3NDEKTSV4RRFFQ69G5FAV/lease",
        paths.checkpoints("pretrain"): "sessions/01ARZ3NDEKTSV4RRFFQ69G5FAV/checkpoints/pretrain",
        paths.model("01XYZ"): "sessions/01ARZ3NDEKTSV4RRFFQ69G5FAV/models/01XYZ",
    }
    assert {str(path.relative_to(tmp_path)) for path in below} == set(below.values())


def test_it_is_made_private_and_twice_is_no_error(tmp_path: Path) -> None:
    home = prepare_home(prepare_home(Home(tmp_path / "a" / "home")))
    for folder in (home.root, home.sessions, home.trash, home.cache):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_its_place_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HomeError, match=r"cannot create the Forge home .*FORGE_HOME=/path or --home"):
        prepare_home(Home(tmp_path / place))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(HomeError, match="is not writable by you"):
        prepare_home(Home(tmp_path))


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(homes, "filesystem_type", lambda path: kind)
    with pytest.raises(HomeError, match=rf"network file system \({kind}\).*Put the home on a local disk"):
        prepare_home(Home(tmp_path / "home"))


MOUNTS = rb"""/dev/vda / ext4 rw 0 0
server:/x /data nfs4 rw 0 0
/dev/vdb /data/local ext4 rw 0 0
tmpfs /over tmpfs rw 0 0
server:/y /over cifs rw 0 0
server:/z /with\040blank\011and\134slash nfs rw 0 0
server:/w /caf\351 nfs rw 0 0

short line
""".replace(rb"\351", b"\xe9")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/home/anna", "ext4"),
        (b"/data", "nfs4"),
        (b"/data/anna", "nfs4"),
        (b"/database", "ext4"),
        (b"/data/local/forge", "ext4"),
        (b"/over/forge", "cifs"),
        (b"/with blank\tand\\slash/forge", "nfs"),
        (b"/caf\xe9/forge", "nfs"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_and_latest_mount(
    tmp_path: Path, path: bytes, kind: str
) -> None:
    (tmp_path / "mounts").write_bytes(MOUNTS)
    assert filesystem_type(Path(os.fsdecode(path)), tmp_path / "mounts") == kind


def test_without_a_list_of_mounts_it_is_unknown(tmp_path: Path) -> None:
    assert filesystem_type(tmp_path, tmp_path / "none") == "unknown"


def test_here_it_is_known(tmp_path: Path) -> None:
    assert filesystem_type(tmp_path) not in ("unknown", *homes.NETWORK_FILESYSTEMS)
