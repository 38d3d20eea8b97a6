"""What surrounds a program, for `forge doctor`: locale, terminal, tmux, and whether a logout ends it.

A hang-up does not end a run; systemd-logind can, and then nothing that Forge does itself would help.
"""

from __future__ import annotations

import getpass
import locale as system_locale
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from forge.cli.finding import Finding

ASK_SECONDS = 3.0
Ask = Callable[[Sequence[str]], str | None]
"""Output of a command; none where it is not there, fails or does not answer."""

_LOGIND = ["/org/freedesktop/login1", "org.freedesktop.login1.Manager"]
_BOOTED = Path("/run/systemd/system")
"""There only where systemd runs the machine, which it does in few containers."""


def ask(command: Sequence[str]) -> str | None:
    """See `Ask`."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def locale(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Whether more than ASCII can be written."""
    encoding = system_locale.getpreferredencoding(False)
    names = [name for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)]
    set_by = f"{names[0]}={environment[names[0]]}" if names else "neither LC_ALL, LC_CTYPE nor LANG is set"
    if encoding.lower().replace("-", "") == "utf8":
        yield Finding("locale", "ok", f"{encoding}, {set_by}")
        return
    yield Finding(
        "locale", "note", f"{encoding}, {set_by}: forge-tui draws with ASCII only",
        "choose one in UTF-8 before starting it: export LC_ALL=C.UTF-8.",
    )  # fmt: skip


def terminal(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """What forge-tui has to draw on."""
    kind = environment.get("TERM", "")
    named = f"TERM is {kind}" if kind else "TERM is not set"
    if not sys.stdout.isatty():
        yield Finding("terminal", "note", f"stdout is none ({named}): forge-tui needs one, forge does not")
        return
    size = shutil.get_terminal_size()
    found = f"{named}, {size.columns}x{size.lines}"
    if environment.get("COLORTERM"):
        found += f", colours: {environment['COLORTERM']}"
    small = size.columns < 80 or size.lines < 24
    dumb = kind in ("", "dumb")
    remedy = "forge-tui needs a terminal that can move its cursor: set TERM." if dumb else ""
    if small and not dumb:
        remedy = "forge-tui is drawn for 80x24 and more: enlarge the window."
    yield Finding("terminal", "note" if small or dumb else "ok", found, remedy)


def tmux(environment: Mapping[str, str] = os.environ, ask: Ask = ask) -> Iterator[Finding]:
    """Whether it lies between forge-tui and the terminal, and lets copied text through."""
    if environment.get("STY") and not environment.get("TMUX"):
        yield Finding("tmux", "ok", "none, but GNU screen, which does not pass on what is copied")
        return
    if not environment.get("TMUX"):
        yield Finding("tmux", "ok", "not inside tmux; none is needed, a run goes on when the terminal closes")
        return
    version = ask(["tmux", "-V"]) or "tmux, which does not say its version"
    clipboard = ask(["tmux", "show-options", "-sv", "set-clipboard"])
    found = f"inside {version}, set-clipboard {clipboard or 'unknown'}"
    if clipboard == "on":
        yield Finding("tmux", "ok", found)
        return
    yield Finding(
        "tmux", "note", f"{found}: text copied in forge-tui may not reach your own clipboard",
        'let tmux pass OSC 52 on: tmux set -s set-clipboard on, and the same line in ~/.tmux.conf.',
    )  # fmt: skip


def logout(user: str | None = None, booted: Path = _BOOTED, ask: Ask = ask) -> Iterator[Finding]:
    """Whether systemd-logind ends what a person leaves running, and whether their services stay."""
    user = user or _user()
    if not booted.exists() or ask(["loginctl", "--version"]) is None:
        yield Finding("logout", "ok", "no systemd-logind here, so nothing ends a run at logout")
        return
    kills = _property(ask, "KillUserProcesses")
    linger = ask(["loginctl", "show-user", user, "--property=Linger", "--value"])
    lingers = {"yes": "on", "no": "off"}.get(linger or "", "unknown")
    found = f"KillUserProcesses is {_word(kills)}, linger is {lingers} for {user}"
    excluded = (_property(ask, "KillExcludeUsers") or "").split()[2:]
    if kills == "b false" or f'"{user}"' in excluded:
        spared = "" if kills == "b false" else f", but {user} is excluded from it"
        yield Finding("logout", "ok", f"{found}{spared}: a run goes on after you log out")
    elif kills == "b true":
        start = "start it outside your login: systemd-run --user --scope forge run tiny"
        enable = "" if lingers == "on" else "loginctl enable-linger (an administrator may have to), then "
        yield Finding(
            "logout", "note" if lingers == "on" else "wrong",
            f"{found}: systemd-logind ends a run when you log out, though it survives a closed terminal",
            f"{enable}{start}. Or set KillUserProcesses=no in /etc/systemd/logind.conf.",
        )  # fmt: skip
    else:
        yield Finding(
            "logout", "note", f"{found}: whether a run goes on after you log out cannot be told",
            "look for KillUserProcesses in /etc/systemd/logind.conf; where it is yes: loginctl "
            "enable-linger, then systemd-run --user --scope forge run tiny.",
        )  # fmt: skip


def _property(ask: Ask, name: str) -> str | None:
    return ask(["busctl", "--system", "get-property", "org.freedesktop.login1", *_LOGIND, name])


def _word(answer: str | None) -> str:
    return {"b true": "on", "b false": "off"}.get(answer or "", "unknown")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user needs no name.
        return str(os.getuid())
