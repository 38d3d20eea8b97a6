"""What is printed: harmless text, aligned columns, JSON that any program reads."""

from __future__ import annotations

import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge import units
from forge.cli.console import portable, put, put_json, say, table
from forge.text import clean, clean_lines

UNSEEN = "\u115f\u3164\uffa0" + "".join(map(chr, [*range(0x1160, 0x1200), *range(0xD7B0, 0xD800)]))
"""Letters to Unicode that take no cell of their own."""


@given(st.text())
def test_no_text_reaches_the_terminal_raw(text: str) -> None:
    assert clean(text).isprintable()
    assert clean(clean(text)) == clean(text)
    assert all(line.isprintable() for line in clean_lines(text).split("\n"))


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters=UNSEEN)))
def test_what_can_be_printed_stays(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\u202eb", "a\\u202eb"),
        ("one\ntwo\ttab", "one\\ntwo tab"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("a\x7f\x85\u2028b", "a\\x7f\\x85\\u2028b"),
        ("\u2764\ufe0f\u3164", "\u2764\\ufe0f\\u3164"),
        ("\u0301a\u0301", "\\u0301a\u0301"),
        ("z" + "\u0301" * 8, "z" + "\u0301" * 6 + "\\u0301" * 2),
        ("e" + "\u1161" * 7, "e" + "\u1161" * 6 + "\\u1161"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_a_line_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    put("one", "\x1btwo\nforge: done")
    say("one", "two\nforge: done")
    shown = capsys.readouterr()
    assert shown.out == "one\n\\x1btwo\\nforge: done\n"
    assert shown.err == "one\ntwo\\nforge: done\n"


def test_columns_are_aligned_by_what_is_seen() -> None:
    lines = table([["größe", "1.5", "x"], ["日本", "12.25", ""]], ["NAME", "VALUE", "NOTE"], right=(1,))
    assert lines == ["NAME   VALUE  NOTE", "größe    1.5  x", "日本   12.25"]


def test_a_cell_cannot_make_a_line() -> None:
    assert table([["a\nb", "c"]]) == ["a\\nb  c"]


def test_an_empty_table_is_nothing() -> None:
    assert table([]) == []


def test_json_has_no_bare_nan(capsys: pytest.CaptureFixture[str]) -> None:
    put_json({"a": [math.nan, math.inf, (-math.inf, 1.5)], 3: {"b": "\x1b\u202e"}})
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail) == {
        "a": ["NaN", "Infinity", ["-Infinity", 1.5]],
        "3": {"b": "\x1b\u202e"},
    }
    assert out.replace("\n", "").isprintable()
    assert out.isascii()


def test_json_is_read_by_strict_readers_and_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    put_json({"a\ud800": "\x7f \x9b \udfff", "b": ["\x7f"]})
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    found = json.loads(out)
    assert found == {"a\\ud800": "\x7f \x9b \\udfff", "b": ["\x7f"]}
    # What strict readers refuse would fail here.
    json.dumps(found, ensure_ascii=False).encode("utf-8")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_whatever_was_measured_becomes_json(value: object) -> None:
    json.dumps(portable(value), allow_nan=False)


def test_remarks_that_nobody_reads_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", closefd=False) as stream:
        monkeypatch.setattr("sys.stderr", stream)
        say("a remark")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    os.close(writer)


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "now"), (41, "41 s ago"), (7300, "2 h ago")])
def test_how_long_ago(seconds: float, said: str) -> None:
    assert units.since(seconds) == said
