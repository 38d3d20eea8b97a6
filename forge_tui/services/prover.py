"""Runs `forge validate` and `forge doctor` as programs of their own, one after the other.

The screen's process never loads what a proof needs. Whatever a program answers becomes a result; asked to
end, it takes what it started with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from typing import Protocol

from forge.home import Home
from forge.validate import Result, progress
from forge.validate.child import program
from forge.validate.result import parse
from forge_tui.trials import DOCTOR, Fact

CLI = "from forge.cli import main; main()"
_TAIL = 600

Told = Callable[[float, str], None]
"""Hears the share that is done and what is being done."""
Answer = Result | tuple[Fact, ...]


class ProverPort(Protocol):
    """What runs the proofs; tests put a fake in its place."""

    async def run(self, name: str, quick: bool, told: Told) -> Answer:
        """Run one to its end."""

    async def stop(self, patience: float) -> None:
        """End what runs now, by force after so many seconds; `run` then returns."""


class Prover:
    """The real one."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._process: Process | None = None

    async def run(self, name: str, quick: bool, told: Told) -> Answer:
        """See `ProverPort.run`."""
        command = [DOCTOR] if name == DOCTOR else ["validate", name, *(["--quick"] if quick else [])]
        process = await asyncio.create_subprocess_exec(
            *program(CLI), *command, "--json", "--home", str(self._home.root),
            stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True,
        )  # fmt: skip
        # Kept when this is cancelled, as it is when the screen is left: somebody has to end the program.
        self._process = process
        assert process.stdout is not None
        said = asyncio.ensure_future(_listen(process, told))
        document = await process.stdout.read()
        tail = await said
        await process.wait()
        self._process = None
        return _answer(name, document, process.returncode, tail)

    async def stop(self, patience: float) -> None:
        """See `ProverPort.stop`."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), patience)
            except TimeoutError:
                process.kill()


async def _listen(process: Process, told: Told) -> str:
    """Pass on what it says about its progress; returns the rest, or its end."""
    assert process.stderr is not None
    others: list[str] = []
    async for line in process.stderr:
        text = line.decode("utf-8", "replace").rstrip()
        found = progress.parse(text)
        if found is not None:
            told(*found)
        elif text:
            others.append(text)
    return "\n".join(others)[-_TAIL:]


def _answer(name: str, document: bytes, code: int | None, tail: str) -> Answer:
    try:
        answer = json.loads(document)
        if name == DOCTOR:
            return tuple(_fact(entry) for entry in answer["findings"])
        return parse(answer["results"][0])
    except (ValueError, KeyError, TypeError, IndexError):
        return Result(
            name, (), 0.0, f"it ended with {code} and no answer: {tail or 'it said nothing'}", "broke"
        )


def _fact(entry: dict[str, object]) -> Fact:
    what, state, found, remedy = (str(entry[key]) for key in ("what", "state", "found", "remedy"))
    return Fact(what, state, found, remedy)


__all__: Sequence[str] = ["Answer", "Prover", "ProverPort", "Told"]
