"""What it costs to look: `forge-tui` attached to a session that another process runs.

From the command to the painted dashboard, memory and bytes while a run goes on, and a session of a million
points. Beside it an empty Textual screen, and `wandb leet` on an offline run of the same steps. (nvitop ends
at once where there is no NVIDIA driver.)
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.children import BIN, Child
from benchmarks.live import make_session
from benchmarks.table import Row, figure, left_out, print_table, row, tell_noise
from forge.home import Home, prepare_home
from forge.validate.noise import Noise
from forge.validate.pairs import alternating, summarise
from forge.validate.terminal import Terminal

FIRST_FRAME_BUDGET = 0.5  # s
MEMORY_BUDGET = 80.0  # MB
MILLION = 1_000_000
MILLION_BUDGET = 0.3  # s
BYTES_BUDGET = 8.0  # kB/s
LOW_BYTES_BUDGET = 2.0  # kB/s
KEYS = ("?", "\x1b", "z", "z", "\t", "y", "y", "L", "j", "k", "\r", "1", "0")
"""Pressed one after the other: help, zoom, panes, axis, the list of sessions and back."""

LOW = "forge-tui --low-bandwidth"

Shown = Callable[[bytes], bool]


@dataclass(frozen=True)
class Program:
    """Something that draws on a terminal."""

    name: str
    command: Sequence[str | Path]
    shown: Shown
    """Whether what it has written is its whole first picture."""
    env: Mapping[str, str] = field(default_factory=dict)

    def first_frame(self) -> float:
        """Seconds from the command to its picture."""
        with Terminal(self.command, self.env) as terminal:
            return terminal.wait_for(self.shown)


def run(quick: bool) -> list[Row]:
    """Rows for the start, for a minute beside a live run, and for a million points."""
    starts, minute = (2, 6.0) if quick else (12, 60.0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        programs = _programs(folder, stack)
        rows = _starts(programs, starts)
        rows += _beside_a_live_run(programs, minute)
    with tempfile.TemporaryDirectory() as name:
        rows += _million(Path(name), MILLION // 10 if quick else MILLION, starts)
    return rows


def dashboard(name: str) -> Shown:
    """Whether header, curve and the last key of the key bar are there."""
    return lambda output: all(part in output for part in (name.encode(), b"quit")) and _braille(output) >= 20


def _programs(folder: Path, stack: ExitStack) -> list[Program]:
    """What there is to compare, each with a live run to look at."""
    home = folder / "home"
    stack.enter_context(Child("benchmarks.live", "forge", home))
    watch: list[str | Path] = [BIN / "forge-tui", "--home", home, "live"]
    programs = [
        Program("forge-tui", watch, dashboard("live")),
        Program(LOW, [*watch, "--low-bandwidth"], dashboard("live")),
        Program(
            "an empty Textual screen",
            [sys.executable, Path(__file__).with_name("floor.py")],
            lambda output: b"nothing to see" in output,
        ),
    ]
    if find_spec("wandb") is None or not (BIN / "wandb").exists():
        left_out("attach", "wandb")
        return programs
    quiet = {
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        # Nothing is left behind in the user's folders.
        **{f"WANDB_{kind}_DIR": str(folder / f"wandb-{kind}") for kind in ("CONFIG", "CACHE", "DATA")},
    }
    followed = stack.enter_context(Child("benchmarks.live", "wandb", folder, env=quiet))
    leet = [BIN / "wandb", "leet", json.loads(followed.first)]
    return [*programs, Program("wandb leet", leet, lambda output: _braille(output) >= 20, quiet)]


def _first_frames(programs: Sequence[Program], starts: int) -> dict[str, list[float]]:
    """Seconds to the first picture of each program, started in turns."""
    times: dict[str, list[float]] = {program.name: [] for program in programs}
    noise = Noise()

    def start(program: Program) -> None:
        times[program.name].append(noise.least(program.first_frame))

    # The first round only warms the system's caches.
    alternating([partial(start, program) for program in programs], starts + 1)
    tell_noise("attach", noise)
    return {name: found[1:] for name, found in times.items()}


def _starts(programs: Sequence[Program], starts: int) -> list[Row]:
    ours, *others = _first_frames([each for each in programs if each.name != LOW], starts).items()
    rows = [figure(f"first frame, attached, {starts} starts", ours[1], "s", budget=FIRST_FRAME_BUDGET)]
    return rows + [
        row(f"first frame / {name}", summarise(ours[1], found), "s", 1.0) for name, found in others
    ]


def _beside_a_live_run(programs: Sequence[Program], seconds: float) -> list[Row]:
    """All look at the same time: half of it in peace for the bytes, half of it with keys."""
    with ExitStack() as stack:
        terminals = {
            program.name: stack.enter_context(Terminal(program.command, program.env)) for program in programs
        }
        for program in programs:
            terminals[program.name].wait_for(program.shown)
        time.sleep(seconds / 12)  # the first seconds are those of a chart that comes to be
        start = time.perf_counter()
        time.sleep(seconds / 2)
        bytes_ = {name: t.bytes_since(start) / (time.perf_counter() - start) for name, t in terminals.items()}
        for key in KEYS:
            terminals["forge-tui"].press(key)
            time.sleep(seconds * 5 / 12 / len(KEYS))
        memory = {name: float(terminal.resident_bytes()) for name, terminal in terminals.items()}
        torch = terminals["forge-tui"].maps("libtorch")
    rows = [
        figure(f"resident after {seconds:g} s, attached", [memory["forge-tui"]], "MB", 1e-6, MEMORY_BUDGET),
        figure("bytes to the terminal, attached", [bytes_["forge-tui"]], "kB/s", 1e-3, BYTES_BUDGET),
    ]
    if torch is not None:
        rows.append(figure("libraries of torch mapped, attached", [float(torch)], "", budget=0.0))
    rows.append(
        figure("bytes to the terminal, --low-bandwidth", [bytes_[LOW]], "kB/s", 1e-3, LOW_BYTES_BUDGET)
    )
    for name in terminals:
        if "forge-tui" not in name:
            rows.append(
                row(f"resident / {name}", summarise([memory["forge-tui"]], [memory[name]]), "MB", 1e-6)
            )
        if name == "wandb leet":
            rows.append(
                row(f"bytes / {name}", summarise([bytes_["forge-tui"]], [bytes_[name]]), "kB/s", 1e-3)
            )
    return rows


def _million(folder: Path, points: int, starts: int) -> list[Row]:
    """What a long session adds to the start of an empty home."""
    long, empty = Home(folder / "long"), Home(folder / "empty")
    make_session(long, "long", points, every_metric=False)
    prepare_home(empty)
    programs = (
        Program("empty", [BIN / "forge-tui", "--home", empty.root], lambda output: b"quit" in output),
        Program("long", [BIN / "forge-tui", "--home", long.root, "long"], dashboard("long")),
    )
    times = _first_frames(programs, starts)
    added = [long - empty for long, empty in zip(times["long"], times["empty"], strict=True)]
    return [
        figure(
            f"{points:,} points to the drawn chart, beyond an empty start", added, "s", budget=MILLION_BUDGET
        )
    ]


def _braille(output: bytes) -> int:
    # U+2800 to U+28FF; the empty pattern, which is blank, counts too.
    return sum(output.count(bytes((0xE2, second))) for second in (0xA0, 0xA1, 0xA2, 0xA3))


if __name__ == "__main__":
    print_table("attach", run(quick=False))
