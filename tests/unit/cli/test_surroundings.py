"""What `forge doctor` says about locale, terminal, tmux and logout, for machines that a test describes."""

from __future__ import annotations

import locale
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from forge.cli import surroundings
from forge.cli.finding import Finding
from forge.cli.surroundings import Ask


def table(known: Mapping[tuple[str, str], str]) -> Ask:
    """A machine that knows these commands by their first and last words."""
    return lambda command: known.get((command[0], command[-1]))


# --- logout ---------------------------------------------------------------------------------------------

LOGIND = {("loginctl", "--version"): "systemd 252"}
KILLS, SPARES = {("busctl", "KillUserProcesses"): "b true"}, {("busctl", "KillUserProcesses"): "b false"}
EXCLUDES = {("busctl", "KillExcludeUsers"): 'as 1 "ada"'}
LINGERS, DOES_NOT = {("loginctl", "--value"): "yes"}, {("loginctl", "--value"): "no"}


@pytest.mark.parametrize(
    ("machine", "state", "found", "remedy"),
    [
        (LOGIND | SPARES | DOES_NOT, "ok", "goes on after you log out", ""),
        (LOGIND | KILLS | DOES_NOT, "wrong", "ends a run when you log out", "loginctl enable-linger"),
        (LOGIND | KILLS | LINGERS, "note", "linger is on for ada", "systemd-run --user --scope"),
        (LOGIND | KILLS | DOES_NOT | EXCLUDES, "ok", "but ada is excluded from it", ""),
        (LOGIND | DOES_NOT, "note", "KillUserProcesses is unknown", "/etc/systemd/logind.conf"),
        (LOGIND, "note", "linger is unknown for ada", "enable-linger"),
    ],
)
def test_whether_a_logout_ends_a_run(
    tmp_path: Path, machine: Mapping[tuple[str, str], str], state: str, found: str, remedy: str
) -> None:
    (finding,) = surroundings.logout("ada", tmp_path, table(machine))
    assert finding.state == state
    assert found in finding.found
    assert remedy in finding.remedy
    assert bool(finding.remedy) is (state != "ok")


def test_where_linger_is_on_it_is_not_asked_for(tmp_path: Path) -> None:
    (finding,) = surroundings.logout("ada", tmp_path, table(LOGIND | KILLS | LINGERS))
    assert "enable-linger" not in finding.remedy


@pytest.mark.parametrize("machine", [{}, LOGIND])
def test_without_logind_nothing_ends_a_run(tmp_path: Path, machine: Mapping[tuple[str, str], str]) -> None:
    booted = tmp_path / "none" if machine else tmp_path
    (finding,) = surroundings.logout("ada", booted, table(machine))
    assert finding.state == "ok"
    assert "no systemd-logind" in finding.found


def test_the_bus_is_asked_for_what_logind_calls_it(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def ask(command: Sequence[str]) -> str | None:
        asked.append(list(command))
        return "systemd 252" if command[-1] == "--version" else None

    list(surroundings.logout("ada", tmp_path, ask))
    assert [
        "busctl", "--system", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1",
        "org.freedesktop.login1.Manager", "KillUserProcesses",
    ] in asked  # fmt: skip
    assert ["loginctl", "show-user", "ada", "--property=Linger", "--value"] in asked


@pytest.mark.parametrize("command", [["no-such-command-here"], ["false"], ["sleep", "60"]])
def test_a_command_that_does_not_answer_is_no_answer(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "ASK_SECONDS", 0.05)
    assert surroundings.ask(command) is None


def test_a_command_answers_with_its_output() -> None:
    assert surroundings.ask(["echo", "yes"]) == "yes"


# --- locale, terminal, tmux -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "environment", "state", "found"),
    [
        ("UTF-8", {"LANG": "de_DE.UTF-8"}, "ok", "UTF-8, LANG=de_DE.UTF-8"),
        ("utf8", {"LC_ALL": "C.utf8", "LANG": "x"}, "ok", "utf8, LC_ALL=C.utf8"),
        ("ANSI_X3.4-1968", {}, "note", "neither LC_ALL, LC_CTYPE nor LANG is set"),
    ],
)
def test_locale(
    monkeypatch: pytest.MonkeyPatch, encoding: str, environment: dict[str, str], state: str, found: str
) -> None:
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _: encoding)
    (finding,) = surroundings.locale(environment)
    assert finding.state == state
    assert found in finding.found
    assert ("LC_ALL=C.UTF-8" in finding.remedy) is (state == "note")


@pytest.mark.parametrize(
    ("size", "environment", "state", "remedy"),
    [
        ((120, 40), {"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "ok", ""),
        ((79, 40), {"TERM": "xterm"}, "note", "enlarge the window"),
        ((120, 23), {"TERM": "xterm"}, "note", "enlarge the window"),
        ((120, 40), {"TERM": "dumb"}, "note", "set TERM"),
        ((120, 40), {}, "note", "set TERM"),
    ],
)
def test_terminal(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    environment: dict[str, str],
    state: str,
    remedy: str,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size(size))
    (finding,) = surroundings.terminal(environment)
    assert finding.state == state
    assert remedy in finding.remedy


def test_a_pipe_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    (finding,) = surroundings.terminal({"TERM": "xterm"})
    assert finding.state == "note"
    assert "TERM is xterm" in finding.found


@pytest.mark.parametrize(
    ("environment", "clipboard", "state", "found"),
    [
        ({}, None, "ok", "not inside tmux"),
        ({"STY": "1.pts"}, None, "ok", "GNU screen"),
        ({"TMUX": "/tmp/tmux"}, "on", "ok", "inside tmux 3.4, set-clipboard on"),
        ({"TMUX": "/tmp/tmux"}, "external", "note", "may not reach your own clipboard"),
        ({"TMUX": "/tmp/tmux"}, None, "note", "set-clipboard unknown"),
    ],
)
def test_tmux(environment: dict[str, str], clipboard: str | None, state: str, found: str) -> None:
    known: dict[tuple[str, str], str] = {("tmux", "-V"): "tmux 3.4"}
    known |= {("tmux", "set-clipboard"): clipboard} if clipboard else {}
    (finding,) = surroundings.tmux(environment, table(known))
    assert finding.state == state
    assert found in finding.found
    assert ("set -s set-clipboard on" in finding.remedy) is (state == "note")


@pytest.mark.parametrize("check", [surroundings.locale, surroundings.terminal, surroundings.tmux])
def test_this_machine_is_described(check: Callable[[], Sequence[Finding]]) -> None:
    (finding,) = check()
    assert finding.found
