"""Every command and screen over a home full of hostile text, in a pseudo-terminal, read as bytes.

What a program sends that is not text is known: a command sends line ends, a screen the sequences of Textual.
All else would be the data's. That the data came by is seen by the words in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from forge.cli.app import app
from forge.home import Home
from forge.registry.query import clean as kept
from forge.text import clean
from tests.e2e import hostile
from tests.e2e.hostile import MARKUP, foreign_in, make_home, pieces, poison, raw_in, ulid, word
from tests.e2e.terminal import Desk

LABELS = (("pin", 1), ("unpin", 1), ("tag", 2), ("note", 2), ("validate", 2))
"""Commands and how many hostile texts each is given."""
ROOT = str(Path(__file__).resolve().parents[2])
SCREENS = (sys.executable, "-m", "forge_tui")

Call = tuple[list[str], dict[str, str]]
"""Arguments and environment of one command."""

# All commands in one process: what is tested is what they print, not how they start.
DRIVER = """
import json, os, sys
calls = json.load(open(sys.argv[1]))
if sys.argv[2:] == ["without the door"]:
    import forge.text
    forge.text.clean = forge.text.clean_lines = str
import forge.cli, forge.cli.doctor
def crash(*_, **__):
    raise RuntimeError(calls[0][0][0])
for arguments, env in calls:
    os.environ.update(env)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    sys.argv = ["forge", *arguments]
    if arguments == ["doctor", "--json"]:
        forge.cli.doctor.doctor = crash
    try:
        forge.cli.main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = "crash"
    sys.stdout.flush()
    for name in env:
        del os.environ[name]
    sys.__stderr__.write(f"=={code}==\\n")
    sys.__stderr__.flush()
"""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of every command there is."""
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def calls(folder: Path, home: Home) -> list[Call]:
    """Every command with everything hostile that it can be given, and over everything that there is."""
    texts, found = poison(), pieces()
    evil = folder / "evil.yaml"
    evil.write_bytes("\n".join(f"{json.dumps(text)}: {json.dumps(text)}" for text in texts).encode())
    given: list[list[str]] = []
    for text in ("".join(found[start : start + 40]) for start in range(0, len(found), 40)):
        given += [
            [text], [f"--{text}"], ["run", text], ["run", str(evil), "--set", f"{text}={text}"],
            ["run", "tiny", "--set", f"data.corpus=text:{text}"], ["resume", text], ["status", text],
            ["stop", text], ["pause", text], ["logs", "--level", text], ["logs", f"-{text}"],
            ["sessions", "--search", text], ["sessions", "--state", text], ["sessions", "--limit", text],
            ["generate", text, text], ["generate", f"x/{text}", "x"], ["clean", "--keep", text],
            ["merge", text, "-o", text], ["trash", "undo", text], ["trash", text], ["config", "check", text],
            ["config", "settings", text], ["config", "settings", "--set", f"{text}={text}"],
            ["config", "show", "tiny", "--set", text], ["doctor", "--home", f"{folder}/{kept(text)}"],
            ["sessions", "--home", f"{folder}/{kept(text)}"],
        ]  # fmt: skip
    for number in range(len(texts)):
        given += [[name, ulid(number)] for name in ("status", "logs")]
    given += [[name, ulid(0), *more] for name in ("status", "logs", "stop") for more in ((), ("--json",))]
    for text in ("".join(found[start : start + 40]) for start in range(0, len(found), 40)):
        given += [[name, *[text] * count] for name, count in LABELS]
    given += [
        ["sessions", "--limit", "1000"], ["sessions", "--json"], ["status"], ["logs"], ["clean"], ["trash"],
        ["clean", "--keep", "1", "--json"], ["trash", "list"], ["trash", "log"], ["trash", "empty"],
        ["config", "check", str(evil)], ["config", "presets"], ["config", "schema"], ["config", "settings"],
        ["config", "show", "tiny"], ["doctor"], ["audit", "--quiet"],
        ["audit", "--json"], ["validate", "--list"],
    ]  # fmt: skip
    completed: list[Call] = [
        ([], {"_FORGE_COMPLETE": "complete_bash", "COMP_WORDS": f"forge {line}", "COMP_CWORD": "2"})
        for line in ("status ", "run ", "generate ", "logs ", *(f"status {piece}" for piece in pieces()[1:4]))
    ]
    return [*((each, {}) for each in given), *completed, (["doctor", "--json"], {})]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The hostile home; nothing here changes it."""
    return make_home(Home(tmp_path_factory.mktemp("hostile") / "home"))


@pytest.fixture
def env(env: dict[str, str], full: Home) -> dict[str, str]:
    """The environment of a program of this checkout, over the hostile home."""
    return {**env, "FORGE_HOME": str(full.root), "PYTHONPATH": ROOT, "COLORTERM": "truecolor"}


@pytest.fixture
def run_all(desk: Desk, full: Home, tmp_path: Path) -> Callable[..., bytes]:
    """Runs every command in a terminal; what came out of it."""
    (tmp_path / "driver.py").write_text(DRIVER, "utf-8")

    def run(*how: str, of: int | None = None) -> bytes:
        (tmp_path / "calls.json").write_text(json.dumps(calls(tmp_path, full)[:of]), "utf-8")
        command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "calls.json"), *how]
        screen = desk.open(*command, size=(240, 50))
        # Whoever is asked says no; the questions are read when they come.
        screen.press("n\nn\nn\nn\n")
        assert screen.ended() == 0, str(screen)
        return screen.raw

    return run


def test_every_command_is_among_them(tmp_path: Path, full: Home) -> None:
    called = {tuple(arguments[:count]) for arguments, _ in calls(tmp_path, full) for count in (1, 2)}
    missing = set(commands(typer.main.get_command(app))) - called
    assert missing == set(), "give the new command its share of hostile text"


def test_no_command_lets_anything_but_text_through(run_all: Callable[..., bytes]) -> None:
    raw = run_all()
    assert raw_in(raw) == []
    text = raw.decode("utf-8").replace("\r\n", "\n")
    # All of it came by, as what it shows.
    assert [piece for piece in pieces() if clean(piece) not in text and clean(kept(piece)) not in text] == []
    assert [mark for number, mark in enumerate(MARKUP) if mark not in text] == []
    codes = {line.strip("=") for line in text.splitlines() if line.startswith("==") and line.endswith("==")}
    assert codes <= {*map(str, range(14)), "crash"}, codes
    # The one mistake that was planted keeps its traceback, which is no door either.
    assert text.count("==crash==") == 1
    assert text.count("Traceback (most recent call last)") == 1


def test_without_the_door_it_would_be_seen(run_all: Callable[..., bytes]) -> None:
    raw = run_all("without the door", of=120)
    found = raw_in(raw)
    # What UTF-8 cannot hold, and what the registry keeps as an escape, never gets so far.
    wanted = {f"U+{code:04X}" for code in hostile.POINTS if code and not 0xD800 <= code <= 0xDFFF}
    assert wanted - set(found) <= {
        f"U+{ord(char):04X}" for char in "\r\u034f\u115f\u1160\u3164\ufe0f\U000e0100"
    }
    assert all(sequence.encode() in raw for sequence in hostile.SEQUENCES.values())


def test_json_stays_json(full: Home, run_json: Callable[..., Any]) -> None:
    listed = run_json("sessions", "--json", "--limit", "1000")
    assert len(listed["sessions"]) == len(poison())
    for number in range(0, len(poison()), 5):
        (session,) = run_json("status", ulid(number), "--json")["sessions"]
        assert session["note"] == kept(poison()[number])
    assert run_json("clean", "--json")["sessions"]
    assert run_json("trash", "--json")["sessions"]


@pytest.fixture
def run_json(full: Home) -> Callable[..., Any]:
    """A command's answer, read as strictly as JSON can be."""
    from typer.testing import CliRunner

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(
            app, list(arguments), env={"FORGE_HOME": str(full.root)}, catch_exceptions=False
        )
        assert result.exit_code == 0, result.stderr
        assert result.stdout.isascii()
        assert result.stdout.replace("\n", "").isprintable()
        return json.loads(result.stdout, parse_constant=pytest.fail)

    return run


def test_no_screen_lets_anything_but_its_own_sequences_through(desk: Desk, full: Home) -> None:
    screen = desk.open(*SCREENS, "--readonly", size=(200, 50))
    screen.wait_for("FAILED")
    newest = len(poison()) - 1
    for row in range(0, newest, 6):
        screen.press("L")
        screen.wait_for("newest first")
        screen.press("j" * row, "enter")
        screen.wait_for("loss · ")
    screen.press("z", "z", "?")
    screen.wait_for("keys · dashboard")
    screen.press("escape")
    screen.wait_until(lambda: not screen.sees("keys · dashboard"), "the help's end")
    screen.press("L")
    screen.wait_for("newest first")
    screen.wait_until(lambda: screen.sees(word(0)), "the oldest session")
    screen.press("\x10")
    screen.wait_for("Search for commands")
    screen.press("\x11")
    assert screen.ended() == 0
    assert foreign_in(screen.raw) == []
    shown = screen.raw.decode("utf-8")
    assert sum(word(number) in shown for number in range(len(pieces()))) > len(pieces()) // 2
    assert all(mark in shown for mark in ("[red]", "[@click=app.quit]"))


def test_a_crash_of_the_screen_is_told_harmlessly(desk: Desk, full: Home, tmp_path: Path) -> None:
    code = (
        "import sys, forge_tui.__main__ as program, forge_tui.app as app, tests.e2e.hostile as hostile\n"
        "def crash(*_): raise RuntimeError(''.join(hostile.pieces()))\n"
        "app.ForgeApp.go_dashboard = crash\n"
        "sys.argv = ['forge-tui', '--readonly']\n"
        "sys.exit(program.main())"
    )
    screen = desk.open(sys.executable, "-c", code, size=(160, 50))
    screen.wait_for("FAILED")
    screen.press("L")
    assert screen.ended() == 1
    # The bell is Textual's own; one of the data would have its word behind it.
    assert foreign_in(screen.raw) == ["U+0007"]
    assert b"\x07q" not in screen.raw
    assert "RuntimeError" in screen.raw.decode()
    assert screen.restored


@pytest.mark.parametrize("option", ["", "--start", "--", "SESSION", "--home"])
def test_what_the_screens_program_is_given_is_named_harmlessly(desk: Desk, option: str) -> None:
    # What no argument of a program can hold is left out.
    evil = "".join(piece for piece in pieces() if piece[0] != "\0" and not "\ud800" <= piece[0] <= "\udfff")
    given = {"": [evil], "--": [f"--{evil}"]}.get(option, [option, evil])
    screen = desk.open(*SCREENS, *given, size=(240, 50))
    assert screen.ended() in (2, 4, 6)
    assert raw_in(screen.raw) == []
    assert word(5) in screen.raw.decode()


def test_the_sequences_that_are_told_apart() -> None:
    assert foreign_in(b"\x1b[?1049h\x1b[38;2;1;2;3;48;2;4;5;6mtext\x1b[0m\x1b[3;4H\x1b]22;default\x07") == []
    for sequence in hostile.SEQUENCES.values():
        assert foreign_in(f"{sequence}{word(1)}".encode()) != []
    assert foreign_in("a\x9bb\u202ec\u200bd".encode()) == ["U+009B", "U+200B", "U+202E"]
