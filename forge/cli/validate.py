"""`forge validate`: proofs on this machine, each with its figures, thresholds and verdict.

What was found stands on stdout and how far it is on stderr, so that a screen or a script can read both.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from forge import units
from forge.cli.console import put, put_json, put_table, say
from forge.cli.exits import UNPROVEN
from forge.errors import ForgeError
from forge.home import Home, resolve_home
from forge.streams import inside
from forge.text import clean
from forge.validate import PROOFS, Proof, Result, find, progress
from forge.validate.job import Tell, run

_INKS = {"pass": "green", "fail": "bold red", "cannot-run": "yellow"}
_PLAIN_WIDTH = 132


def validate(
    names: Sequence[str],
    home: Path | None,
    *,
    listed: bool,
    quick: bool,
    preset: str,
    json: bool,
    quiet: bool,
) -> int:
    """Run the proofs that were named, else all; returns the exit code.

    Raises:
        NotFoundError: there is no proof of a name.
    """
    chosen = [find(name) for name in dict.fromkeys(names)] or list(PROOFS)
    if listed:
        return _list(chosen, json=json)
    if live := _live(resolve_home(home)):
        say(f"{live} live here: the proofs cost it processor time, and it disturbs their figures")
    results: list[Result] = []
    with _ends_by_signal():
        for proof in chosen:
            with _progress(proof, shown=not quiet, plain=json) as tell:
                result = run(proof, resolve_home(home), quick=quick, preset=preset, tell=tell)
            results.append(result)
            if not json:
                _put(proof, result)
    if json:
        put_json(_document(results, quick=quick))
    elif len(results) > 1:
        put(_summary(results))
    return exit_code(results)


def exit_code(results: Sequence[Result]) -> int:
    """0 all passed, 1 one failed, `UNPROVEN` none failed but some could not run."""
    verdicts = {result.verdict for result in results}
    return 1 if "fail" in verdicts else UNPROVEN if "cannot-run" in verdicts else 0


def _live(home: Home) -> str:
    """Which run is live in the home, in words; empty when none is, or none can be seen."""
    from forge.registry import LIVE, Error, fetch, open_reader, queries

    try:
        with contextlib.closing(open_reader(home.registry)) as connection:
            rows = fetch(connection, queries.sessions(limit=2, states=LIVE))
    except (Error, ForgeError, OSError):
        # Whether the registry can be read is for `forge doctor` to say.
        return ""
    return "" if not rows else f"{rows[0].name} is" if len(rows) == 1 else "several runs are"


def _list(proofs: Sequence[Proof], *, json: bool) -> int:
    if json:
        put_json(
            [
                {"proof": each.name, "claim": each.claim, "control": each.control, "seconds": each.seconds,
                 "quick_seconds": each.quick_seconds}
                for each in proofs
            ]
        )  # fmt: skip
        return 0
    for each in proofs:
        about = f"about {units.duration(each.seconds)}, {units.duration(each.quick_seconds)} with --quick"
        put_table([[each.name, each.claim], ["", f"control: {each.control}"], ["", about]])
    return 0


def _document(results: Sequence[Result], *, quick: bool) -> dict[str, Any]:
    return {
        "ok": all(result.verdict == "pass" for result in results),
        "quick": quick,
        "results": [result.document() for result in results],
    }


def _summary(results: Sequence[Result]) -> str:
    counts = Counter(result.word for result in results)
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _put(proof: Proof, result: Result) -> None:
    """One proof as a table, its verdict below."""
    # Colours are the table's own; what stands in it is cleaned.
    console = Console(file=inside(sys.stdout), highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=_PLAIN_WIDTH)
    console.print(Text(clean(f"{proof.name}: {proof.claim}"), style="bold"))
    if result.figures:
        console.print(_table(result))
    why = f": {result.why}" if result.why else ""
    word = Text(clean(result.word), style=_INKS[result.verdict])
    console.print(word, Text(clean(f"in {units.duration(result.seconds)}{why}")))
    console.print()


def _table(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("threshold")
    table.add_column("")
    for each in result.figures:
        table.add_row(
            "control" if each.control else "",
            Text(clean(each.name)),
            Text(clean(each.shown)),
            Text(clean(each.threshold)),
            Text(clean(each.word), style="bold red" if each.kept is False else ""),
        )
    return table


@contextlib.contextmanager
def _progress(proof: Proof, *, shown: bool, plain: bool) -> Iterator[Tell]:
    """Tells on stderr how far a proof is: a bar on a terminal, lines elsewhere."""
    if not shown:
        yield lambda share, doing: None
        return
    console = Console(file=inside(sys.stderr), stderr=True, highlight=False)
    if plain or not console.is_terminal or console.is_dumb_terminal:
        yield lambda share, doing: say(progress.line(proof.name, share, doing))
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(proof.name, total=1.0, doing="")
        yield lambda share, doing: bar.update(task, completed=share, doing=clean(doing))


@contextlib.contextmanager
def _ends_by_signal() -> Iterator[None]:
    """A request to end takes what the proofs started with it, as Ctrl-C does."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    # Ignored from the start, by nohup or a shell's `&`: whoever started us wants it so.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
