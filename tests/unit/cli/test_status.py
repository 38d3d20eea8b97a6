"""`forge status` and `forge sessions`: what they show, and that a dead owner is noticed by looking."""

from __future__ import annotations

import math
import shutil
import time

import pytest

from forge.home import Home
from forge.registry import Registry, State, edits
from tests.unit.cli.conftest import Forge, add, held


def test_nothing_runs(forge: Forge, home: Home) -> None:
    empty = forge("status")
    assert (empty.code, empty.err) == (0, "")
    assert empty.out.startswith(f"nothing runs: there is no session in {home.root}")
    assert forge("status", "--json").json == {"sessions": []}
    add(home, "first", State.STOPPED)
    ended = forge("status")
    assert ended.out == (
        'nothing runs; the newest session is first, stopped: go on with "forge resume first"\n'
    )
    assert forge("status", "--json").json == {"sessions": []}


def test_looking_makes_no_home(forge: Forge, home: Home) -> None:
    shutil.rmtree(home.root)
    for command in ("status", "sessions", "logs", "stop", "resume"):
        forge(command)
    assert not home.root.exists()


def test_a_live_session(forge: Forge, home: Home) -> None:
    session_id = add(home, "first", State.RUNNING)
    with held(home, session_id):
        shown = forge("status").out
        (facts,) = forge("status", "--json").json["sessions"]
    assert shown.splitlines()[0] == "first · running · tiny · pid 4121 on gpu-box"
    assert "pretrain: step 310 of 500 (62%) · loss 3.250 · 8.41 k tok/s · 48 s left · heartbeat" in shown
    assert "forging: not begun" in shown
    assert "an event\\x1b[2J" in shown
    assert facts["owner"] == "pid 4121 on gpu-box"
    assert facts["progress"]["step"] == 310
    assert facts["progress"]["loss"] == 3.25
    assert 0 <= facts["progress"]["heartbeat_age_seconds"] < 600
    assert [phase["state"] for phase in facts["phases"]] == ["running", "created"]


def test_all_live_sessions_are_shown(forge: Forge, home: Home) -> None:
    one, two = add(home, "first", State.RUNNING), add(home, "second", State.PAUSED)
    with held(home, one), held(home, two):
        shown = forge("status").out
        assert "first · running" in shown
        assert "second · paused" in shown
        assert 'paused; "forge resume second" goes on' in shown
        several = forge("stop")
    assert several.code == 4
    assert several.err == "forge: 2 sessions run now: second, first. Say which one.\n"


def test_a_dead_owner_is_noticed(forge: Forge, home: Home) -> None:
    add(home, "first", State.RUNNING)
    assert "first, interrupted" in forge("status").out
    shown = forge("status", "first").out
    assert shown.startswith("first · interrupted · tiny\n")
    assert "ended without saying so" in shown
    assert shown.endswith('  go on with "forge resume first"\n')


def test_silence_is_told(forge: Forge, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = add(home, "first", State.RUNNING)
    with held(home, session_id):
        assert forge("status", "--json").json["sessions"][0]["silence"] is None
        now = time.time()
        monkeypatch.setattr("forge.cli.status.time.time", lambda: now + 180)
        said = "no step for 3 m 00 s (usually 0.2 s): hung, suspended or asleep"
        assert f"\n  {said}\n" in forge("status").out
        assert forge("status", "--json").json["sessions"][0]["silence"] == said


def test_one_that_is_only_starting_is_shown_too(forge: Forge, home: Home) -> None:
    session_id = add(home, "first")
    with Registry.open(home) as registry:
        registry.write(lambda c: edits.take_lease(c, session_id, "lease", "pid 4121 on gpu-box", time.time()))
    with held(home, session_id):
        shown = forge("status").out
        (facts,) = forge("status", "--json").json["sessions"]
        stopped = forge("stop", "--no-wait")
    assert shown.startswith(
        "first · starting · tiny · pid 4121 on gpu-box\n  starting: loading the tensor library\n"
    )
    assert "go on with" not in shown
    assert (facts["state"], facts["starting"], facts["owner"]) == ("created", True, "pid 4121 on gpu-box")
    assert (stopped.code, stopped.err) == (0, "stop requested of first (pid 4121 on gpu-box)\n")


def test_a_loss_that_is_no_number(forge: Forge, home: Home) -> None:
    session_id = add(home, "first", State.RUNNING, loss=math.nan)
    with held(home, session_id):
        assert "loss NaN" in forge("status").out
        assert forge("status", "--json").json["sessions"][0]["progress"]["loss"] == "NaN"


def test_a_damaged_metrics_file_does_not_hide_the_session(forge: Forge, home: Home) -> None:
    session_id = add(home, "first", State.RUNNING)
    home.session(session_id).metrics.write_bytes(b"not a database" * 100)
    with held(home, session_id):
        result = forge("status")
    assert result.code == 0
    assert "first · running" in result.out
    assert "figures cannot be read" in result.out


def test_sessions_are_a_table_newest_first(forge: Forge, home: Home) -> None:
    add(home, "first", State.STOPPED, note="evil\x1b[2J\nnote")
    add(home, "second")
    heads, *rows = forge("sessions").out.splitlines()
    assert heads.split() == ["NAME", "STATE", "PRESET", "PHASE", "CREATED", "CHANGED", "LABELS", "NOTE"]
    assert [row.split()[0] for row in rows] == ["second", "first"]
    assert rows[1].endswith("evil\\x1b[2J\\nnote")


def test_sessions_for_a_program(forge: Forge, home: Home) -> None:
    for name, state in (("one", State.STOPPED), ("two", State.CREATED), ("three", State.STOPPED)):
        add(home, name, state)
    answer = forge("sessions", "--json", "--state", "stopped", "--limit", "1").json
    assert answer["total"] == 2
    assert [row["name"] for row in answer["sessions"]] == ["three"]
    assert [row["name"] for row in forge("sessions", "--json", "--search", "TWO").json["sessions"]] == ["two"]
    assert forge("sessions", "--state", "lost").code == 2


def test_a_page_says_that_there_is_more(forge: Forge, home: Home) -> None:
    for name in ("one", "two"):
        add(home, name)
    assert forge("sessions", "--limit", "1").err == "1 of 2 sessions; --limit 2 shows them all\n"
    assert forge("sessions", "--search", "nothing").err.startswith("no session fits")


@pytest.mark.parametrize("command", ["status", "logs", "stop", "pause", "resume"])
def test_a_session_that_is_not_there(forge: Forge, home: Home, command: str) -> None:
    add(home, "first")
    result = forge(command, "se\x1bcond")
    assert result.code == 4
    assert result.err == 'forge: no session "se\\x1bcond"; "forge sessions" lists them.\n'


def test_a_name_that_fits_several(forge: Forge, home: Home) -> None:
    one, two = add(home, "first"), add(home, "second")
    begin = one[: next(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)]
    result = forge("status", begin)
    assert result.code == 4
    assert "fits 2 sessions: second, first" in result.err
    assert forge("status", one[:-1]).out.startswith("first")
