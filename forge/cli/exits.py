"""How a command ends: its exit code, and one sentence on stderr instead of a traceback.

Whatever a person can act on ends here. A mistake of the program itself keeps its traceback.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from forge.cli.console import say
from forge.errors import ForgeError

P = ParamSpec("P")

STOPPED = 12
"""The run was stopped before its end by a request; every other code is in `forge.errors`."""
UNPROVEN = 14
"""No proof of "forge validate" failed, but some could not run here."""
BROKEN_PIPE = 128 + signal.SIGPIPE

EXIT_CODES = """\b
exit codes:
  0    done
  1    something else failed; the sentence on stderr says what. A proof of "forge validate" failed
  2    wrong use of the command line
  3    the configuration cannot be read, or contradicts itself
  4    no such session, model, preset, proof or file, or several fit
  5    another process runs the session
  6    the home folder cannot be used
  7    the training text is missing, empty, binary or too small
  8    no checkpoint could be written, or none that is valid found
  9    the registry is damaged, not Forge's, or newer than this program
  10   the session cannot go to that state from the one it is in
  11   training failed: out of memory, or diverged too often
  12   the run was stopped before its end; "forge resume" goes on
  13   the models cannot be merged, or the folder for the result exists
  14   no proof of "forge validate" failed, but some could not run on this machine
  130  SIGINT (Ctrl-C), 143 SIGTERM: a run was stopped with a checkpoint
"""


def ends(command: Callable[P, int]) -> Callable[P, None]:
    """Turn a function that returns an exit code, or raises, into a command of the application."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        raise typer.Exit(_code(functools.partial(command, *args, **kwargs)))

    # The signature is where typer reads the options; what it returns is of no interest there.
    return run


def complain(message: object) -> None:
    """One sentence about what went wrong, on stderr."""
    say(*f"forge: {message}".split("\n"))


def _code(command: Callable[[], int]) -> int:
    try:
        code = command()
        sys.stdout.flush()
        return code
    except ForgeError as error:
        complain(error)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read has seen enough. What is still buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else error)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
