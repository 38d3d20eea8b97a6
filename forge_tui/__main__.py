"""`forge-tui`: reads its options, looks at the terminal, and runs the application.

Nothing heavy is imported before the options are understood, and torch is never imported on this thread.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forge import streams
from forge.text import clean, clean_lines

if TYPE_CHECKING:
    from forge.config import PipelineConfig
    from forge.home import Home
    from forge_tui.app import ForgeApp
    from forge_tui.life import Guard
    from forge_tui.ports import EnginePort
    from forge_tui.terminal import Terminal

EXAMPLES = """\
examples:
  forge-tui                      watch the live session, else the newest one
  forge-tui swift-otter-12       watch, and steer, one session by name or id
  forge-tui --start tiny         make a session from a preset and run it here
  forge-tui --start mine.yaml    the same from a file ("forge config show tiny > mine.yaml")
  forge-tui --readonly           look without steering

exit codes: 0 fine, 2 wrong use or not a terminal, 3 configuration, 4 not found, 5 session is run elsewhere,
6 home, 7 training text, 9 registry, 1 anything else; 128 + n: ended by signal n, a run here stopped with a
checkpoint
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the application; returns the exit code."""
    # Not a terminal to others: a crash of the screen is told in plain text.
    streams.guard(terminal=False)
    options = _parser().parse_args(arguments)
    if options.version:
        return _print_version()
    if (reason := _no_terminal()) is not None:
        _tell(f"forge-tui: {reason}")
        return 2
    from forge.errors import ForgeError

    try:
        return _run(options)
    except ForgeError as error:
        _tell(f"forge-tui: {error}")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="forge-tui",
        description="Make small language models, phase by phase, from the terminal.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("session", nargs="?", metavar="SESSION", help="name or id of the session to open")
    add(
        "--start",
        metavar="PRESET|FILE",
        help="make a session from a preset or file and run it",
    )
    add("--home", metavar="DIR", type=Path, help="the folder that holds everything (default: $FORGE_HOME)")
    add(
        "--ascii",
        action="store_true",
        help="draw with ASCII only (automatic where the terminal is not UTF-8)",
    )
    add("--low-bandwidth", action="store_true", help="refresh rarely: for slow links")
    add("--readonly", action="store_true", help="look only: nothing can be started, steered or stopped")
    add("--no-mouse", action="store_true", help="leave the mouse to the terminal, so that it can select text")
    add("--version", action="store_true", help="print the versions of forge, textual and sqlite")
    return parser


def _print_version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    from forge.registry import sqlite

    def of(distribution: str) -> str:
        try:
            return version(distribution)
        except PackageNotFoundError:
            return "unknown"

    versions = f"forge-tui {of('forge-tui')}, textual {of('textual')}, sqlite {sqlite.VERSION}"
    print(clean(f"{versions} ({sqlite.LIBRARY})"))
    return 0


def _no_terminal() -> str | None:
    """Why the application cannot be shown here; none when it can."""
    remedy = 'over SSH use "ssh -t"; without a terminal use "forge run" and "forge status".'
    if not (sys.stdin.isatty() and sys.stdout.isatty() and streams.inside(sys.stderr).isatty()):
        return f"this is not a terminal; {remedy}"
    if os.environ.get("TERM", "") in ("", "dumb"):
        return f'the terminal cannot move its cursor (TERM is "{os.environ.get("TERM", "")}"); {remedy}'
    return None


def wants_ascii() -> bool:
    """Whether the terminal cannot be trusted with more than ASCII."""
    import locale

    encoding = locale.getpreferredencoding(False).lower().replace("-", "")
    return encoding != "utf8" or os.environ.get("TERM") == "linux"


def _run(options: argparse.Namespace) -> int:
    from forge.home import prepare_home, resolve_home

    home = resolve_home(options.home)
    # Before anything is made: what cannot be opened leaves nothing behind.
    config, session = _what_to_open(options, home)
    if not options.readonly:
        prepare_home(home)
    # Textual reads these when it is imported. Every frame is bytes on the link and time of training.
    os.environ.setdefault("TEXTUAL_FPS", "15")
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    # pydantic would look through all installed distributions for plugins, of which Forge uses none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Nothing made by importing is garbage: to collect meanwhile only delays the first frame.
    gc.disable()
    from forge_tui.app import ForgeApp
    from forge_tui.services.engine import LazyEngine

    gc.enable()
    gc.freeze()
    engine = None if options.readonly else LazyEngine(home)
    app = ForgeApp(
        home,
        engine=engine,
        session=session,
        start=config,
        ascii_only=options.ascii or wants_ascii(),
        readonly=options.readonly,
        low_bandwidth=options.low_bandwidth,
    )
    return run_app(app, engine, home, mouse=not options.no_mouse)


def run_app(app: ForgeApp, engine: EnginePort | None, home: Home, *, mouse: bool = True) -> int:
    """The screen, and what comes after it; returns the exit code."""
    from forge_tui.app import STOPPED
    from forge_tui.headless import point_back
    from forge_tui.life import HUNG_UP, Guard
    from forge_tui.notes import STILL_ODD, note
    from forge_tui.terminal import Terminal

    kept, failed = None, False
    with Terminal() as terminal, Guard(engine, home, terminal, app.signalled, app.leave) as guard:
        if killed := _repair(home, terminal):
            app.warning = killed
        app.show_on(terminal)
        answer = None
        try:
            with note(home if engine is not None else None, terminal.name):
                answer = app.run(mouse=mouse)
        finally:
            # Neither a mistake of the screen nor its end without an answer is a reason to lose a run.
            guard.screen_left()
            if engine is not None:
                kept = engine.hosted() if answer != STOPPED or guard.hung_up else None
                failed = _after(app, engine, home, terminal, guard, kept)
            point_back(home, terminal, [*app.begun, app.feed.session_id])
            if killed:
                terminal.show(STILL_ODD)
    if guard.stop is not None:
        return 128 + guard.stop
    if guard.hung_up and kept is None:
        return HUNG_UP
    return app.return_code or int(failed)


def _what_to_open(options: argparse.Namespace, home: Home) -> tuple[PipelineConfig | None, str | None]:
    """The configuration to start, or the session to open; mistakes are told before the screen opens."""
    from forge.errors import ConfigError

    if options.start is not None:
        if options.session is not None or options.readonly:
            raise ConfigError("--start makes a session of its own: leave out SESSION and --readonly.")
        from forge.config import load_config
        from forge.config.corpus import require_corpora

        config = load_config(options.start)
        require_corpora(config.data)
        return config, None
    if options.session is not None:
        from forge_tui.services.lookup import find_session

        return None, find_session(home, options.session)
    return None, None


def _repair(home: Home, terminal: Terminal) -> str:
    """Put right what a screen has left on this terminal that was killed, and say so; what was said.

    It has to be said again on the screen and after it: before, nobody has the time to read.
    """
    from forge_tui.notes import ADVICE, killed

    process = killed(home, terminal.name)
    if process is None:
        return ""
    terminal.make_sane()
    advice = ADVICE.format(pid=process)
    terminal.show(advice)
    return advice.strip()


def _after(
    app: ForgeApp, engine: EnginePort, home: Home, terminal: Terminal, guard: Guard, kept: str | None
) -> bool:
    """After the screen: stay with a run that goes on, close the registry, say how the run ended.

    Returns:
        Whether a run that went on failed.
    """
    from forge_tui.headless import accompany, see_off

    if kept is not None:
        accompany(engine, home, terminal, guard, kept)
    guard.finish()
    engine.shutdown(keep_training=False)
    ended = kept or guard.stopped or app.stopped
    return ended is not None and see_off(home, terminal, ended) and kept is not None


def _tell(text: str) -> None:
    """Say something to a person who has no screen."""
    print(clean_lines(text), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
