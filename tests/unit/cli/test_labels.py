"""Pins, tags and notes from the command line: they keep a session, and do not make it younger."""

from __future__ import annotations

import pytest

from forge.home import Home
from forge.registry import Registry, State, cleanup, queries
from tests.unit.cli.conftest import Forge, add


def row(home: Home, id: str) -> tuple[bool, tuple[str, ...], str, float]:
    with Registry.open(home) as registry:
        found = registry.fetch(cleanup.candidates(id))[0]
        return found.session.pinned, found.tags, found.session.note, found.session.updated_at


@pytest.fixture
def otter(home: Home) -> str:
    session_id = add(home, "otter", State.COMPLETED)
    home.session(session_id).config.write_text("name: tiny\n")
    return session_id


def test_pinning(forge: Forge, home: Home, otter: str) -> None:
    changed = row(home, otter)[3]
    assert forge("pin", "otter").out == "otter is pinned: no cleanup takes it\n"
    assert row(home, otter) == (True, (), "", changed)
    assert "pinned" in forge("sessions").out
    plan = forge("clean", "--keep", "0", "--json").json
    assert [(s["verdict"], s["reason"]) for s in plan["sessions"]] == [("keep", "it is pinned")]
    assert forge("unpin", otter[:20]).out == "otter is not pinned: cleanup may take it\n"
    assert row(home, otter) == (False, (), "", changed)
    assert forge("clean", "--keep", "0", "--json").json["sessions"][0]["verdict"] == "trash"


def test_the_newest_is_meant_where_none_is_named(forge: Forge, otter: str) -> None:
    assert forge("pin", "--json").json == {
        "session": otter, "name": "otter", "pinned": True, "tags": [], "note": "",
    }  # fmt: skip


def test_tagging(forge: Forge, home: Home, otter: str) -> None:
    changed = row(home, otter)[3]
    assert forge("tag", "otter").out == "otter: no tag\n"
    assert forge("tag", "otter", "paper", " best ").out == "otter: best, paper\n"
    assert forge("tag", "otter", "new", "--remove", "paper", "--remove", "none").out == "otter: best, new\n"
    assert row(home, otter) == (False, ("best", "new"), "", changed)
    assert "#best #new" in forge("sessions").out
    assert forge("sessions", "--search", "BES", "--json").json["sessions"][0]["tags"] == ["best", "new"]
    assert (
        forge("clean", "--keep", "0", "--keep-tag", "new", "--json").json["sessions"][0]["verdict"] == "keep"
    )
    assert forge("tag", "otter", "--clear", "--json").json["tags"] == []
    assert row(home, otter)[1] == ()


@pytest.mark.parametrize("bad", ["", "  ", "a,b"])
def test_what_is_no_tag(forge: Forge, otter: str, bad: str) -> None:
    result = forge("tag", "otter", bad)
    assert result.code == 2
    assert "is no tag" in result.err


def test_a_note(forge: Forge, home: Home, otter: str) -> None:
    assert forge("note", "otter").out == "otter: no note\n"
    assert forge("note", "otter", " first\x1b[2J ").out == "otter: first\\x1b[2J\n"
    assert row(home, otter)[2] == "first\x1b[2J"
    assert forge("note", "otter", "--json").json["note"] == "first\x1b[2J"
    assert forge("note", "otter", "").out == "otter: no note\n"


def test_a_session_in_the_trash_is_not_labelled(forge: Forge, home: Home, otter: str) -> None:
    with Registry.open(home) as registry:
        registry.write(
            lambda c: cleanup.trash_session(c, otter, actor="me", reason="old", bytes=1, path="p", now=1.0)
        )
    home.session(otter).root.rename(home.trashed(otter).root)
    for command in (["pin", "otter"], ["tag", "otter", "x"], ["note", "otter", "x"]):
        result = forge(*command)
        assert result.code == 1
        assert 'otter is in the trash; "forge trash undo otter" brings it back.' in result.err
    with Registry.open(home) as registry:
        assert not registry.fetch(queries.session(otter))[0].pinned


def test_no_such_session(forge: Forge, otter: str) -> None:
    for command in (["pin", "weasel"], ["unpin", "weasel"], ["tag", "weasel"], ["note", "weasel"]):
        assert forge(*command).code == 4
