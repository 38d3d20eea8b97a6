"""`forge logs`: the end of a log, by level, harmless, and followed until the session ends."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from forge.engine.logfile import rotate
from forge.home import Home
from forge.registry import State
from tests.unit.cli.conftest import Forge, add, held, until


def entry(message: str, level: str = "info", **fields: object) -> str:
    """One line as the engine writes it."""
    return json.dumps({"at": 0.0, "level": level, "kind": "x", "message": message, **fields}) + "\n"


@pytest.fixture
def log(home: Home) -> Path:
    """The log of the only session, not yet written."""
    return home.session(add(home, "first")).log


def test_the_last_lines(forge: Forge, log: Path) -> None:
    log.write_text("".join(entry(f"line {i}", phase="pretrain", step=i) for i in range(60)), "utf-8")
    lines = forge("logs").out.splitlines()
    assert len(lines) == 50
    assert lines[-1].endswith("  info     pretrain 59  line 59")
    assert forge("logs", "first", "-n", "2").out.splitlines() == lines[-2:]
    assert forge("logs", "-n", "0").out == ""


def test_levels_are_picked_before_lines_are_counted(forge: Forge, log: Path) -> None:
    log.write_text(entry("bad", "error") + entry("odd", "warning") + entry("fine") * 100, "utf-8")
    assert [line.split()[-1] for line in forge("logs", "--level", "warning").out.splitlines()] == [
        "bad",
        "odd",
    ]
    assert [line.split()[-1] for line in forge("logs", "--level", "error").out.splitlines()] == ["bad"]


def test_what_a_library_printed_is_shown_and_harmless(forge: Forge, log: Path) -> None:
    log.write_bytes(
        b"\x1b]0;owned\x07 raw \xff\n[1, 2]\n" + entry("two\nlines\x1b[2J").encode() + b"half a li"
    )
    result = forge("logs")
    assert result.code == 0
    assert result.out.replace("\n", "").isprintable()
    assert "\\x1b]0;owned\\x07 raw \\xff" in result.out
    assert "[1, 2]" in result.out
    assert "    lines\\x1b[2J\n" in result.out
    assert "half" not in result.out


def test_json_is_one_object_a_line(forge: Forge, log: Path) -> None:
    log.write_text(entry("first") + "raw\n" + '{"at": NaN, "message": "odd", "level": []}\n', "utf-8")
    objects = [
        json.loads(line, parse_constant=pytest.fail) for line in forge("logs", "--json").out.splitlines()
    ]
    assert [item["message"] for item in objects] == ["first", "raw", "odd"]
    assert objects[1]["kind"] == "output"
    assert forge("logs").code == 0


def test_a_session_without_a_log(forge: Forge, log: Path) -> None:
    result = forge("logs")
    assert (result.code, result.out) == (0, "")
    assert result.err == "first has not written anything yet\n"
    assert forge("logs", "--follow").code == 0


def test_follow_ends_when_the_session_does(forge: Forge, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = add(home, "second", State.RUNNING)
    log = home.session(session_id).log
    log.write_text(entry("one") + "half ", "utf-8")
    looks = iter(range(100))
    done = threading.Event()

    def sleep(seconds: float) -> None:
        """What happens between two looks."""
        look = next(looks)
        with log.open("a", encoding="utf-8") as file:
            file.write({0: "line\n", 1: entry("two"), 2: entry("last words")}.get(look, ""))
        if look == 2:
            lease.__exit__(None, None, None)
            done.set()

    monkeypatch.setattr("forge.cli.logs.time.sleep", sleep)
    lease = held(home, session_id)
    lease.__enter__()
    result = forge("logs", "--follow", "-n", "1")
    until(done.is_set, "the end")
    lines = result.out.splitlines()
    assert len(lines) == 4
    for line, end in zip(lines, ["  one", "  half line", "  two", "  last words"], strict=True):
        assert line.endswith(end)


def test_follow_misses_nothing_when_the_log_begins_a_new_part(
    forge: Forge, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = add(home, "second", State.RUNNING)
    log = home.session(session_id).log
    log.write_text(entry("one"), "utf-8")
    words = iter(["two", "three", "four", "five"])
    more = iter([True, True, True, False])

    def sleep(seconds: float) -> None:
        """Between two looks a line is written, the part is full, and one more line comes."""
        with log.open("a", encoding="utf-8") as file:
            file.write(entry(next(words)))
        rotate(log)
        with log.open("a", encoding="utf-8") as file:
            file.write(entry(next(words)))

    monkeypatch.setattr("forge.cli.logs.time.sleep", sleep)
    monkeypatch.setattr("forge.cli.logs._live", lambda *_: next(more) and next(more))
    result = forge("logs", "--follow")
    assert [line.split()[-1] for line in result.out.splitlines()] == ["one", "two", "three"]
    again = forge("logs", "-n", "2")
    assert [line.split()[-1] for line in again.out.splitlines()] == ["two", "three"]


def test_what_is_written_while_the_session_ends_is_shown(
    forge: Forge, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write_text(entry("one"), "utf-8")

    def live(*_: object) -> bool:
        """The owner writes its last words and ends, just then."""
        with log.open("a", encoding="utf-8") as file:
            file.write(entry("last words"))
        return False

    monkeypatch.setattr("forge.cli.logs._live", live)
    assert forge("logs", "--follow").out.endswith("last words\n")
