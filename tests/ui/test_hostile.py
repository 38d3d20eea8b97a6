"""Names, notes, errors and events that would harm a terminal, on a real one: what comes out is read as bytes.

What is looked for are the sequences themselves, not what some emulator makes of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from forge.home import Home
from tests.e2e.terminal import Desk
from tests.ui.homes import BEL, ESC, HOSTILE, RTL

FORGE_TUI = (sys.executable, "-m", "forge_tui")
Seeded = Callable[[str], Home]

FORBIDDEN = {
    "a colour": f"{ESC}[31mred",
    "the clipboard": f"{ESC}]52;",
    "a bell": BEL,
    "a change of direction": RTL,
    "NUL": "\0",
    "C1 control": "\x9b",
    "zero width space": "\u200b",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "zero width joiner": "\u200d",
}
SURROGATES = (b"\xed\xa0", b"\xed\xb0")


def harmful(raw: bytes) -> list[str]:
    """What came out that must not."""
    raw.decode("utf-8")
    # Textual's own: the shape of the mouse's pointer, which a bell ends.
    raw = re.sub(rb"\x1b\]22;[a-z]*\x07", b"", raw)
    found = [what for what, text in FORBIDDEN.items() if text.encode() in raw]
    return found + ["a lone surrogate" for start in SURROGATES if start in raw]


def test_what_is_looked_for_is_in_the_names() -> None:
    assert all(any(text in name for name in HOSTILE) for text in FORBIDDEN.values())
    assert any("\ud800" <= char <= "\udfff" for name in HOSTILE for char in name)


def test_no_name_note_error_or_event_acts_on_the_terminal(seeded: Seeded, desk: Desk) -> None:
    screen = desk.open(*FORGE_TUI, env={"FORGE_HOME": str(seeded("hostile").root)})
    screen.wait_for("STOPPED")
    for number in range(len(HOSTILE)):
        screen.press("L")
        screen.wait_for("newest first")
        screen.press("j" * number, "enter")
        screen.wait_for("loss · Pre-training")
        assert not screen.sees("no session yet")
    # The last one opened is the oldest; its own name stands in the header, as text.
    assert screen.sees("\\x1b[31mred\\x1b[0m\\x1b[2J")
    screen.press("z", "z", "?")
    screen.wait_for("keys · dashboard")
    screen.press("escape")
    screen.wait_until(lambda: not screen.sees("keys · dashboard"), "the help's end")
    screen.press("L")
    screen.wait_for("newest first", "[/b][link=file:///etc/passwd]")
    screen.press("/passwd")
    screen.wait_for('containing "passwd"')
    screen.press("\x10")
    screen.wait_for("Search for commands")
    screen.press("\x11")
    assert screen.ended() == 0
    assert screen.restored
    assert harmful(screen.raw) == []


def test_no_name_acts_on_the_terminal_while_it_is_cleaned_up(seeded: Seeded, desk: Desk) -> None:
    screen = desk.open(*FORGE_TUI, "--readonly", env={"FORGE_HOME": str(seeded("hostile").root)})
    screen.wait_for("STOPPED")
    screen.press("C")
    screen.wait_for("newest to keep", "3 sessions", "\\x1b[31mred")
    # With the cursor on the last row the first rows are gone, and all of them were drawn.
    screen.press("G")
    screen.wait_until(lambda: screen.sees("y" * 10), "the last row")
    screen.press("e", f"{ESC}[200~{RTL}1\x9b{ESC}[201~")
    screen.wait_for("a whole number, or nothing")
    screen.press("\x11")
    assert screen.ended() == 0
    assert harmful(screen.raw) == []


def test_what_is_pasted_into_a_field_acts_on_nothing(seeded: Seeded, desk: Desk) -> None:
    screen = desk.open(*FORGE_TUI, "--readonly", env={"FORGE_HOME": str(seeded("several").root)})
    screen.wait_for("swift-otter-12")
    screen.press("L")
    screen.wait_for("newest first")
    # A terminal takes escapes out of what it pastes; what is left may still be hostile.
    screen.press("/", f"{ESC}[200~a{RTL}b\u200bc\x9bd[/b]{ESC}[201~")
    screen.wait_for("containing", "a\\u202eb\\u200bc\\x9bd[/b]")
    screen.press("\x11")
    assert screen.ended() == 0
    assert harmful(screen.raw) == []


@pytest.mark.parametrize("name", [f"{ESC}]52;c;cm0={BEL}", f"{RTL}gnp.exe"])
def test_a_session_that_is_not_there_is_named_harmlessly(seeded: Seeded, desk: Desk, name: str) -> None:
    screen = desk.open(*FORGE_TUI, name, env={"FORGE_HOME": str(seeded("several").root)})
    assert screen.ended() == 4
    assert "there is no session" in screen.said
    assert harmful(screen.raw) == []
