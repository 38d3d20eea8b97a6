"""The commands of `forge`: their options, help and examples. What they do is in the module of their name.

Importing this must stay cheap, because `forge --help` and shell completion do: no torch, no pydantic, and
no module of a command before it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from forge.cli import complete
from forge.cli.clean import CLEAN_EXAMPLES, clean
from forge.cli.config import config_app
from forge.cli.console import put
from forge.cli.exits import EXIT_CODES, ends
from forge.cli.labels import LABEL_COMMANDS
from forge.cli.options import Detach, Home, Host, Json, Overrides, Quiet, Session, Source, Wait, Where
from forge.cli.trash import trash_app
from forge.streams import guard

HELP = """Make small language models on your own machine, and never lose a run.

Data goes to stdout, progress and remarks to stderr. FORGE_HOME names the folder that holds everything.
"""

app = typer.Typer(
    name="forge",
    help=HELP,
    epilog=f"""\b
examples:
  forge run tiny                       train the tiny preset here, about 3 minutes
  forge run tiny --detach              the same without this terminal
  forge status                         what runs now, and how far it is
  forge generate "def fibonacci(n):"   let the newest model go on
  forge run tiny | tee report.txt      the report without the progress

{EXIT_CODES}""",
    no_args_is_help=True,
    # Plain help: it imports faster, and reads the same in a pipe and on any terminal.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(config_app, name="config")
app.add_typer(trash_app, name="trash")


def main() -> None:
    """Run the command line; ends the interpreter with the exit code."""
    guard()
    app(prog_name="forge")


def _print_version(wanted: bool) -> None:
    if wanted:
        from forge import __version__

        put(f"forge {__version__}")
        raise typer.Exit


@app.callback()
def forge(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """What every command has in common."""


def _where(host: Host | None, *, detach: bool) -> Literal["thread", "process"] | None:
    if detach and host is Host.THREAD:
        raise typer.BadParameter(
            "a thread of this program ends with it; leave out --host thread or --detach",
            param_hint="'--detach'",
        )
    if detach or host is Host.PROCESS:
        return "process"
    return None if host is None else "thread"


@app.command(
    epilog="""\b
examples:
  forge run tiny
  forge run tiny --name first --set seed=7 --set pretrain.steps=200
  forge run mine.yaml --device cuda:1 --json > report.json
  forge run tiny --detach

Ctrl-C stops after the running step with a checkpoint; "forge resume" goes on from there, exactly.
A second Ctrl-C ends at once. When the terminal closes, the run goes on without it.

With --detach the run has a process of its own from the start: its name is printed, and this command ends
once it runs, or says why it does not. "forge status" shows it, "forge stop" ends it.
"""
)
@ends
def run(
    source: Source,
    overrides: Overrides = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", metavar="NAME", help="A name for the session.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="auto|cpu|cuda:N", help="Where to compute; sets runtime.device."),
    ] = None,
    host: Where = None,
    detach: Detach = False,
    quiet: Quiet = False,
    json: Json = False,
    home: Home = None,
) -> int:
    """Make a session and run it, to the report."""
    from forge.cli import run as command

    changed = [*(overrides or []), *([] if device is None else [f"runtime.device={device}"])]
    how = command.How(_where(host, detach=detach), detach, json, quiet)
    return command.run(source, changed, name, home, how)


@app.command(
    epilog="""\b
examples:
  forge resume
  forge resume swift-otter-12
  forge resume swift-otter-12 --detach
"""
)
@ends
def resume(
    session: Session = None,
    host: Where = None,
    detach: Detach = False,
    quiet: Quiet = False,
    json: Json = False,
    home: Home = None,
) -> int:
    """Go on with a session: here, in a process of its own, or where it is paused."""
    from forge.cli import run as command

    return command.resume(session, home, command.How(_where(host, detach=detach), detach, json, quiet))


@app.command(
    epilog="""\b
examples:
  forge status
  forge status swift-otter-12 --json
"""
)
@ends
def status(session: Session = None, json: Json = False, home: Home = None) -> int:
    """Show what runs now, how far it is and who runs it."""
    from forge.cli import status as command

    return command.status(session, home, json=json)


@app.command(
    epilog="""\b
examples:
  forge stop
  forge stop swift-otter-12 --no-wait
"""
)
@ends
def stop(session: Session = None, wait: Wait = True, home: Home = None) -> int:
    """Stop a running session with a checkpoint.

    "forge resume" goes on from there, exactly.
    """
    from forge.cli import control as command

    return command.control("stop", session, home, wait=wait)


@app.command(
    epilog="""\b
examples:
  forge pause
  forge pause swift-otter-12
"""
)
@ends
def pause(session: Session = None, wait: Wait = True, home: Home = None) -> int:
    """Let a running session stand still.

    It keeps its memory; "forge resume" lets it go on at once, without loading anything.
    """
    from forge.cli import control as command

    return command.control("pause", session, home, wait=wait)


@app.command(
    epilog="""\b
examples:
  forge sessions
  forge sessions --state stopped --state interrupted
  forge sessions --search otter --json
"""
)
@ends
def sessions(
    search: Annotated[
        str, typer.Option("--search", metavar="TEXT", help="In name, id, preset, note, state or tags.")
    ] = "",
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state", metavar="STATE", help="Only these states; repeatable.", autocompletion=complete.states
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="At most so many.")
    ] = 20,
    json: Json = False,
    home: Home = None,
) -> int:
    """List sessions, newest first."""
    from forge.cli import sessions as command

    return command.sessions(home, search=search, states=state or [], limit=limit, json=json)


@app.command(
    epilog="""\b
examples:
  forge logs
  forge logs swift-otter-12 --follow
  forge logs --level warning -n 1000
"""
)
@ends
def logs(
    session: Session = None,
    lines: Annotated[
        int, typer.Option("-n", "--lines", metavar="N", min=0, max=10_000_000, help="The last so many.")
    ] = 50,
    level: Annotated[
        str,
        typer.Option(
            "--level",
            metavar="LEVEL",
            help="info, warning or error, and above.",
            autocompletion=complete.levels,
        ),
    ] = "info",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the session ends.")] = False,
    json: Json = False,
    home: Home = None,
) -> int:
    """Print the log of a session."""
    from forge.cli import logs as command

    return command.logs(session, home, lines=lines, level=level, follow=follow, json=json)


@app.command(
    epilog="""\b
examples:
  forge generate "def fibonacci(n):"
  forge generate swift-otter-12 "import " --temperature 0
  forge generate swift-otter-12/pretrain "class Node:" --seed 7 --max-tokens 200
  echo "import os" | forge generate - --json

MODEL is a session (its last model), SESSION/PHASE, a model's id or its beginning, or a model's folder.
"""
)
@ends
def generate(
    first: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|PROMPT",
            help="The model, where a prompt follows; else the prompt, for the newest model.",
            autocompletion=complete.sessions,
        ),
    ],
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help='What to go on from; "-" reads it from stdin.', show_default=False
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "-n", metavar="N", min=1, max=1_000_000, help="At most so many.")
    ] = 120,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", metavar="T", min=0.0, help="0 takes the likeliest.")
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="K", min=0, help="Draw from so many; 0 from all.")
    ] = 50,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", min=0, max=2**63 - 1, help="For the same text again.", show_default=False
        ),
    ] = None,
    json: Json = False,
    home: Home = None,
) -> int:
    """Let a model continue a prompt."""
    from forge.cli import generate as command

    sampling = command.Sampling(max_tokens, temperature, top_k or None, seed)
    model, prompt = (None, first) if second is None else (first, second)
    return command.generate(model, prompt, home, sampling, json=json)


@app.command(
    epilog="""\b
examples:
  forge merge recipe.yaml -o merged
  forge merge recipe.yaml -o merged --json

A recipe is YAML as mergekit reads it. The models are folders as Forge or Hugging Face write them, or
safetensors files; nothing is downloaded. docs/merge.md has the methods and their parameters.
"""
)
@ends
def merge(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE.yaml", help="What is merged, and how.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="A new folder for the result.", show_default=False
        ),
    ],
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Merge models of one architecture into one."""
    from forge.cli import merge as command

    return command.merge(recipe, output, json=json, quiet=quiet)


@app.command(
    epilog="""\b
examples:
  forge doctor
  forge doctor --json
"""
)
@ends
def doctor(json: Json = False, home: Home = None) -> int:
    """Look at this machine, and say what to do about what is wrong."""
    from forge.cli import doctor as command

    return command.doctor(home, json=json)


@app.command(
    epilog="""\b
examples:
  forge validate --list
  forge validate --quick
  forge validate ste wal
  forge validate memory --preset mine.yaml --json > memory.json

Every proof has a control: something broken on purpose that has to show. It writes beside the home, never into
it, and Ctrl-C ends it with all that it started. Exit codes: 0 all passed, 1 one failed, 14 none failed but
some could not run here.
"""
)
@ends
def validate(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Which proofs; default: all.", autocompletion=complete.proofs,
            show_default=False,
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="What they claim, and how long they take.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter measurements.")] = False,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", metavar="PRESET|FILE", help="What the memory proof runs.",
            autocompletion=complete.presets,
        ),
    ] = "25m",
    quiet: Quiet = False,
    json: Json = False,
    home: Home = None,
) -> int:  # fmt: skip
    """Prove on this machine what Forge promises, with figures and thresholds."""
    from forge.cli import validate as command

    return command.validate(
        names or [], home, listed=listed, quick=quick, preset=preset, json=json, quiet=quiet
    )


@app.command(
    epilog="""\b
examples:
  forge audit
  forge audit --json > audit.json
  forge audit --repair

Every checkpoint and model is read and compared with its hash, every log is looked through for steps that
are missing, and folders and records are compared with each other. Live sessions may go on meanwhile.
Exit code 0: nothing is wrong; 1: something is, and the table says what.
"""
)
@ends
def audit(
    repair: Annotated[
        bool, typer.Option("--repair", help="First finish what a crash left half done.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
    home: Home = None,
) -> int:
    """Look whether everything in the home is as it was promised to be; changes nothing."""
    from forge.cli import audit as command

    return command.audit(home, json=json, quiet=quiet, repair=repair)


app.command(epilog=CLEAN_EXAMPLES)(clean)
for command, examples in LABEL_COMMANDS.items():
    app.command(epilog=examples)(command)
