"""Runs a session of an evolution in a process of its own, and kills it with SIGKILL before a measurement.

    python victim.py HOME SESSION NOTES COUNT

Each candidate that is measured on dev is a line of NOTES: the hash of its recipe.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from forge.engine.population import RegistryPopulation
from forge.phases.evomerge.measure import Examiner, Measures, Question
from tests.unit.phases.branches import Branching

Ask = Callable[[Examiner, Question], Measures]
Record = Callable[[RegistryPopulation, str, float, Mapping[str, float]], None]


class Stops:
    """Ends a run at the `count`-th time that it comes to a place, and keeps a note of every measurement."""

    def __init__(self, notes: Path, place: str, count: int, end: Callable[[], None]) -> None:
        self._notes, self._place, self._left, self._end = notes, place, count, end

    def come(self, place: str) -> None:
        """Whether it is here and now."""
        self._left -= place == self._place
        if place == self._place and self._left == 0:
            self._end()

    def ask(self, real: Ask) -> Ask:
        """`Examiner.ask`; `before` is between the record of a candidate and its measurement."""

        def noted(worker: Examiner, question: Question) -> Measures:
            if question.split == "dev":
                self.come("before")
                digest = hashlib.sha256(json.dumps(question.recipe).encode()).hexdigest()
                with self._notes.open("a") as file:
                    file.write(f"{digest}\n")
            return real(worker, question)

        return noted

    def record(self, real: Record) -> Record:
        """`RegistryPopulation.measured`; `after` is between a measurement and the record of its fitness."""

        def recorded(
            self_: RegistryPopulation, key: str, fitness: float, metrics: Mapping[str, float]
        ) -> None:
            self.come("after")
            real(self_, key, fitness, metrics)

        return recorded


def main(home: str, session: str, notes: str, count: str) -> None:
    """Host the session until it is killed."""
    import forge.phases
    from forge.engine import Engine
    from forge.home import Home

    stops = Stops(Path(notes), "before", int(count), lambda: os.kill(os.getpid(), signal.SIGKILL))
    forge.phases.PIPELINE = {**forge.phases.PIPELINE, "pretrain": Branching}
    Examiner.ask = stops.ask(Examiner.ask)  # type: ignore[assignment,method-assign]
    Engine(Home(Path(home))).host(session).wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
