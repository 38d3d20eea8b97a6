"""The last door before a terminal: whoever prints, and whatever, only text comes out."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.streams import Harmless, inside


class Terminal(io.StringIO):
    """Remembers what it was sent, and calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.lists(st.text()))
def test_nothing_but_text_comes_out(texts: list[str]) -> None:
    inner = io.StringIO(newline="\n")
    for text in texts:
        assert Harmless(inner).write(text) == len(text)
    assert all(line.isprintable() for line in inner.getvalue().split("\n"))


def test_who_draws_gets_the_stream_itself() -> None:
    inner = Terminal()
    assert inside(Harmless(inner)) is inner  # type: ignore[arg-type]
    assert inside(inner) is inner
    assert Harmless(inner).isatty()
    assert not Harmless(inner, terminal=False).isatty()


def test_there_is_no_way_past_it() -> None:
    with pytest.raises(AttributeError):
        _ = Harmless(io.TextIOWrapper(io.BytesIO())).buffer


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_tracebacks_warnings_and_logs_of_others_are_harmless(encoding: str) -> None:
    code = (
        "import sys, threading, warnings, logging\n"
        "from forge.streams import guard\n"
        "guard()\n"
        "evil = '\\x1b]0;owned\\x07\\x9b2J\\u202e'\n"
        "warnings.warn(evil)\n"
        "logging.error(evil)\n"
        "def work(): raise RuntimeError(evil)\n"
        "t = threading.Thread(target=work); t.start(); t.join()\n"
        "sys.stderr.writelines([evil])\n"
        "raise RuntimeError(evil)\n"
    )
    env = {"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=False)
    assert result.returncode == 1
    shown = result.stderr.decode(encoding)
    assert shown.count("\\x1b]0;owned\\x07\\x9b2J\\u202e") >= 5
    assert all(line.isprintable() for line in shown.split("\n"))
