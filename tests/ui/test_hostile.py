"""Names, notes, errors and events that would harm a terminal, on a real one: what comes out is read as bytes.

What is looked for are the sequences themselves, not what some emulator makes of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from forge.home import Home
from tests.ui.homes import BEL, ESC, HOSTILE, RTL
from tests.ui.terminal import Terminal, left_alternate_screen

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


def test_no_name_note_error_or_event_acts_on_the_terminal(seeded: Seeded) -> None:
    with Terminal(["-m", "forge_tui"], FORGE_HOME=str(seeded("hostile").root)) as terminal:
        terminal.wait_for("STOPPED")
        for number in range(len(HOSTILE)):
            terminal.send("L")
            terminal.wait_for("newest first")
            terminal.send("j" * number + "\r")
            assert "no session yet" not in terminal.wait_for("loss · Pre-training")
        # The last one opened is the oldest; its own name stands in the header, as text.
        assert "\\x1b[31mred\\x1b[0m\\x1b[2J" in terminal.text
        steps: tuple[tuple[str, str | Callable[[str], bool]], ...] = (
            ("zz", "pipeline"),
            ("?", "keys · dashboard"),
            ("\x1b", lambda text: "keys · dashboard" not in text),
            ("L", "[/b][link=file:///etc/passwd]"),
            ("/passwd", "containing"),
            ("\x10", "Search for commands"),
        )
        for keys, shows in steps:
            terminal.send(keys)
            terminal.wait_for(shows)
        terminal.send("\x11")
        assert terminal.wait_for_exit() == 0
        assert terminal.cooked
        raw = terminal.raw.getvalue()
    assert left_alternate_screen(raw)
    assert harmful(raw) == []


def test_what_is_pasted_into_a_field_acts_on_nothing(seeded: Seeded) -> None:
    with Terminal(["-m", "forge_tui", "--readonly"], FORGE_HOME=str(seeded("several").root)) as terminal:
        terminal.wait_for("swift-otter-12")
        terminal.send("L")
        terminal.wait_for("newest first")
        terminal.send("/")
        # A terminal takes escapes out of what it pastes; what is left may still be hostile.
        terminal.send(f"{ESC}[200~a{RTL}b\u200bc\x9bd[/b]{ESC}[201~")
        assert "a\\u202eb\\u200bc\\x9bd[/b]" in terminal.wait_for("containing")
        terminal.send("\x11")
        assert terminal.wait_for_exit() == 0
        assert harmful(terminal.raw.getvalue()) == []


@pytest.mark.parametrize("name", [f"{ESC}]52;c;cm0={BEL}", f"{RTL}gnp.exe"])
def test_a_session_that_is_not_there_is_named_harmlessly(seeded: Seeded, name: str) -> None:
    with Terminal(["-m", "forge_tui", name], FORGE_HOME=str(seeded("several").root)) as terminal:
        assert terminal.wait_for_exit() == 4
        assert "there is no session" in terminal.text
        assert harmful(terminal.raw.getvalue()) == []
