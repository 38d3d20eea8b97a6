"""Arguments and options that several commands share, so that they mean the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from forge.cli import complete


class Host(StrEnum):
    """Who runs a session."""

    THREAD = "thread"
    PROCESS = "process"


Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="The folder that holds everything; default: $FORGE_HOME, else the user's data folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Session = Annotated[
    str | None,
    typer.Argument(
        metavar="SESSION",
        help="Name, id or the beginning of an id; default: the live session, else the newest.",
        autocompletion=complete.sessions,
        show_default=False,
    ),
]
Source = Annotated[
    str,
    typer.Argument(metavar="PRESET|FILE", help="A preset, or a YAML file.", autocompletion=complete.presets),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Change one setting, such as pretrain.steps=200; repeatable."
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait, for a minute at most, for the answer.")]
Where = Annotated[
    Host | None,
    typer.Option(
        "--host",
        help="Run it in a thread of this program, or in a process of its own that outlives it; default: "
        "runtime.host of the configuration, a thread.",
        show_default=False,
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Start it in a process of its own, and return once it runs.")
]
