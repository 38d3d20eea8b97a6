"""The door for text from outside: nothing that a terminal would act on passes, and widths are kept."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from forge_tui.text import clean, compose, cut, join_ends, pad, safe, safe_lines, wrap
from forge_tui.widgets.ascii import to_ascii
from tests.ui.homes import HOSTILE

# Everything that Python can hold in a string, lone surrogates included.
anything = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
UNSEEN = "\u115f\u3164\uffa0" + "".join(map(chr, [*range(0x1160, 0x1200), *range(0xD7B0, 0xD800)]))
"""Letters to Unicode that take no cell of their own."""
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def harmless(text: str) -> bool:
    """Whether a terminal would only print it."""
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text)


@given(anything)
@example(BIDI)
@example("".join(map(chr, range(0xA0))))
def test_nothing_survives_that_a_terminal_would_act_on(text: str) -> None:
    shown = clean(text)
    assert harmless(shown)
    assert shown.isprintable()
    shown.encode("utf-8")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_and_harmless(name: str) -> None:
    assert harmless(safe(name).plain)
    assert harmless(compose("a ", (name, "label"), " b").plain)
    assert all(harmless(line.plain) for line in safe_lines(name))


@given(st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters=UNSEEN), max_size=40))
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_escapes_are_those_that_programmers_know() -> None:
    assert clean("a\x1b[31mb\r\n\0\x9b\u202e\ud83d") == "a\\x1b[31mb\\r\\n\\0\\x9b\\u202e\\ud83d"
    assert clean("a\tb\u2003c") == "a b c"


def test_markup_is_text() -> None:
    assert safe("[/b][red]x[/]").plain == "[/b][red]x[/]"
    assert safe("[/b]").spans == []


@given(anything, st.integers(-3, 70))
@example("東京" * 20, 7)
@example("e" + "\u0301" * 30, 1)
def test_a_line_is_never_wider_than_asked(text: str, width: int) -> None:
    room = max(0, width)
    assert safe(text, width).cell_len <= room
    assert compose(text, ("…", "label"), width=width).cell_len <= room
    assert pad(safe(text), room).cell_len == room


@given(anything, anything, st.integers(1, 70))
def test_two_ends_fill_a_line(left: str, right: str, width: int) -> None:
    line = join_ends(safe(left), safe(right, 30), width)
    assert line.cell_len == width


def test_what_is_cut_says_so() -> None:
    assert safe("abcdef", 4).plain == "abc…"
    assert safe("abcd", 4).plain == "abcd"
    line = Text("東京の")
    cut(line, 4)
    assert line.plain.endswith("…")


@given(st.text(st.sampled_from("ab 東"), max_size=60), st.integers(2, 20))
def test_wrapping_loses_no_word(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert " ".join(lines).split() == text.split()
    assert all(cell_len(line) <= width or " " not in line for line in lines)
    assert lines


@given(anything)
def test_an_ascii_terminal_gets_ascii_of_the_same_width(text: str) -> None:
    shown = to_ascii(clean(text))
    assert shown.isascii()
    assert len(shown) == cell_len(clean(text))
