"""A person's command: told by its environment alone, bounded in time and in what it may say."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from forge.engine import command
from forge.engine.command import MOST_OUTPUT, Ran, run

NASTY = 'x\'; touch broken; "$(touch broken)" `touch broken` \n& touch broken'


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has asked for its end yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_what_it_is_told_is_never_run(tmp_path: Path) -> None:
    ran = run('printf %s "$FORGE_SESSION"', {"FORGE_SESSION": NASTY}, tmp_path)
    assert ran == Ran(0, NASTY)
    assert run("eval true; echo $FORGE_SESSION", {"FORGE_SESSION": NASTY}, tmp_path).code == 0
    assert list(tmp_path.iterdir()) == []


def test_it_runs_in_the_folder_with_the_environment_and_without_input(tmp_path: Path) -> None:
    ran = run("pwd; echo $HOME; cat; echo no >&2; exit 3", {"A": "b\0c"}, tmp_path)
    assert ran == Ran(3, f"{tmp_path}\n{os.environ['HOME']}\nno\n")
    assert ran.sentence == "ended with exit code 3"


def test_it_has_a_session_of_its_own(tmp_path: Path) -> None:
    """Signals of the terminal, and the end of the run's process group, are not its own."""
    assert int(run("ps -o sid= -p $$", {}, tmp_path).output) != os.getsid(0)


def test_what_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    ran = run("echo begun; sleep 1000 & echo $!; sleep 1000", {}, tmp_path, seconds=0.3)
    begun, pid = ran.output.split()
    assert (ran.code, begun) == (None, "begun")
    assert "was killed" in ran.sentence
    deadline = time.monotonic() + 30
    while alive(int(pid)):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_what_it_leaves_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    ran = run("sleep 1000 & echo $!", {}, tmp_path)
    assert ran.code == 0
    os.kill(int(ran.output), 9)


def test_a_flood_is_cut_and_does_not_block_it(tmp_path: Path) -> None:
    ran = run("head -c 3000000 /dev/zero | tr '\\0' x; exit 0", {}, tmp_path)
    assert ran.code == 0
    assert ran.output == "x" * MOST_OUTPUT


def test_it_may_close_its_output_and_go_on(tmp_path: Path) -> None:
    ran = run("exec >&- 2>&-; i=0; while [ $i -lt 1000 ]; do i=$((i + 1)); done; exit 5", {}, tmp_path)
    assert ran == Ran(5, "")
    assert run("exec >&- 2>&-; sleep 1000", {}, tmp_path, seconds=0.2).code is None


def test_a_signal_is_named(tmp_path: Path) -> None:
    assert run("kill -TERM $$", {}, tmp_path).sentence == "was ended by SIGTERM"


def test_a_folder_that_is_gone_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        command.run("true", {}, tmp_path / "gone")
