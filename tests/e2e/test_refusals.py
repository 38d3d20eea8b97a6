"""What cannot be done is told in a sentence, with an exit code, and nothing is touched.

The sentences are read where they stand: on the terminal they were printed to, or on the screen.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from forge.config import load_config
from forge.engine import Engine
from forge.home import Home
from forge.registry import Connection, State, edits, open_writer, schema
from tests.e2e.conftest import FORGE, FORGE_TUI
from tests.e2e.terminal import PATIENCE, Desk, Terminal
from tests.e2e.watch import Watch


def told(screen: Terminal, words: str) -> bool:
    """Whether the note on the screen says this; its lines begin with a bar and lie over a box."""
    lines = [line.rpartition("▌")[2].strip(" │─╯") for line in screen.text.splitlines() if "▌" in line]
    return words in " ".join(" ".join(lines).split())


def test_a_pipe_is_no_terminal(env: dict[str, str], home: Home) -> None:
    result = subprocess.run(
        [FORGE_TUI, "--start", "tiny"],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "this is not a terminal" in result.stderr
    assert "ssh -t" in result.stderr
    assert "forge status" in result.stderr
    assert not home.root.exists()


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_that_cannot_move_its_cursor(desk: Desk, home: Home, term: str | None) -> None:
    screen = desk.open(FORGE_TUI, env={"TERM": term})
    assert screen.ended() == 2
    assert f'TERM is "{term or ""}"' in screen.said
    assert "forge status" in screen.said
    assert screen.mode_set(1049) is None
    assert not home.root.exists()


def test_too_small_a_window_says_so_and_comes_back(desk: Desk) -> None:
    screen = desk.open(FORGE_TUI, size=(59, 15))
    screen.wait_for("needs 60x16, this is 59x15")
    assert not screen.sees("no session")
    screen.resize(60, 16)
    screen.wait_for("There is no session here yet", "quit")
    screen.resize(60, 15)
    screen.wait_for("needs 60x16, this is 60x15")
    screen.resize(80, 24)
    screen.wait_for("There is no session here yet")
    screen.press("q")
    assert screen.ended() == 0
    assert screen.restored


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--start", "huge"], 4, ["huge", "presets are 25m, 25m-plain, "]),
        (["--start", "missing.yaml"], 4, ["missing.yaml"]),
        (["--start", "bad.yaml"], 3, ["bad.yaml", "learning_rat", "unknown key"]),
        (["no-such-otter"], 4, ["no-such-otter", "forge sessions"]),
        (["--readonly", "--start", "tiny"], 3, ["--readonly"]),
        (["--start", "lost.yaml"], 7, ["nowhere", "no file matches"]),
    ],
)  # fmt: skip
def test_what_cannot_be_opened(
    desk: Desk, home: Home, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\npretrain: {learning_rat: 1}\n", "utf-8")
    (tmp_path / "lost.yaml").write_text('data: {corpus: "text:/nowhere/*.txt"}\n', "utf-8")
    arguments = [str(tmp_path / each) if each.endswith(".yaml") else each for each in arguments]
    screen = desk.open(FORGE_TUI, *arguments)
    assert screen.ended() == code
    missing = [word for word in words if word not in screen.said]
    assert not missing, str(screen)
    assert "Traceback" not in screen.text
    assert screen.mode_set(1049) is None
    assert not home.root.exists(), "a mistake makes no home"


@pytest.mark.parametrize("command", [[FORGE_TUI], [FORGE_TUI, "--start", "tiny"], [FORGE, "run", "tiny"]])
@pytest.mark.parametrize("kind", ["file", "read-only"])
def test_a_home_that_cannot_be_written(desk: Desk, tmp_path: Path, command: list[str], kind: str) -> None:
    if kind == "file":
        place = tmp_path / "a file"
        place.write_bytes(b"not a folder")
    else:
        # Not even root makes a folder here.
        place = Path("/proc/forge")
    screen = desk.open(*command, env={"FORGE_HOME": str(place)})
    assert screen.ended() == 6
    assert f"cannot create the Forge home {place}" in screen.said
    assert "FORGE_HOME=" in screen.said
    assert screen.mode_set(1049) is None


@pytest.fixture
def stopped(home: Home, short: Path) -> str:
    """The name of a stopped session in the home, made without training anything."""
    engine = Engine(home)
    session_id = engine.create(load_config(str(short)), name="quiet-otter")
    now = 1_750_000_000.0

    def stop(c: Connection) -> None:
        edits.take_lease(c, session_id, "a lease", "pid 4121 on gpu-box", now)
        for state in (State.RUNNING, State.STOPPED):
            edits.set_session_state(c, session_id, state, now=now, phase="pretrain")
            edits.set_phase_state(c, session_id, "pretrain", state, now=now, step=120)
        edits.drop_lease(c, session_id, "a lease")

    engine.registry.write(stop)
    engine.shutdown()
    return "quiet-otter"


@pytest.fixture
def newer(home: Home, stopped: str) -> str:
    """The same session, in a registry that a later version has written."""
    connection = open_writer(home.registry, synchronous="FULL", wal_autocheckpoint=1000)
    connection.execute(f"PRAGMA user_version={schema.REGISTRY.version + 1}")
    connection.close()
    return stopped


def test_a_newer_registry_is_looked_at_and_left_alone(
    desk: Desk, home: Home, newer: str, watch: Watch
) -> None:
    before = (home.registry.read_bytes(), watch.sessions())
    screen = desk.open(FORGE_TUI)
    screen.wait_for(newer, "STOPPED", "step 120 of 450")
    screen.wait_until(lambda: told(screen, "was written by a newer Forge"), "the notice")
    assert told(screen, "it is opened read-only")
    screen.press("r")
    screen.wait_until(lambda: told(screen, "nothing can be changed"), "the refusal")
    screen.press("q")
    assert screen.ended() == 0

    run = desk.open(FORGE, "resume", newer)
    assert run.ended() == 9
    assert "written by a newer Forge" in run.said
    listing = desk.open(FORGE, "sessions")
    assert listing.ended() == 0
    assert newer in listing.text
    assert (home.registry.read_bytes(), watch.sessions()) == before


def test_readonly_looks_and_touches_nothing(desk: Desk, home: Home, stopped: str, watch: Watch) -> None:
    before = watch.sessions()
    screen = desk.open(FORGE_TUI, "--readonly", stopped)
    screen.wait_for(stopped, "STOPPED", "step 120 of 450")
    for key in ("r", "space", "s", "c", "n"):
        reason = f"{key}: this screen only looks (--readonly)"
        screen.press(key)
        screen.wait_until(partial(told, screen, reason), reason)
    screen.press("q")
    assert screen.ended() == 0
    assert watch.sessions() == before
    assert not home.session(before[0].id).lease.exists()
