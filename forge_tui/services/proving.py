"""What the application does about proofs: which wait, which runs, and what became of each.

One runs at a time, for two would disturb each other's figures. Nothing here draws: `changed` is called with
new frozen values, and whoever hears it posts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from forge.validate import Result
from forge_tui.ports import Clock
from forge_tui.services.prover import Answer, ProverPort
from forge_tui.trials import BUSY, Stage, Trial, Trials, fresh

STOP_SECONDS = 45.0
"""A run that a proof started is stopped with a checkpoint, and that may take a while."""
LEAVE_SECONDS = 5.0
"""Whoever leaves the screen does not wait that long."""


class Proving:
    """Keeps the trials, and runs those that wait."""

    def __init__(self, prover: ProverPort, clock: Clock, changed: Callable[[Trials], None]) -> None:
        self._prover = prover
        self._clock = clock
        self._changed = changed
        self._cancelled = False
        self.trials = fresh()

    def toggle_form(self) -> None:
        """Take the other of the quick and the full form for what is run next."""
        self._become(replace(self.trials, quick=not self.trials.quick))

    def ask(self, names: Iterable[str]) -> bool:
        """Let some wait for their turn; returns whether somebody has to begin with `work`."""
        idle = not self.trials.busy
        chosen = [name for name in names if self.trials.named(name).stage not in BUSY]
        quick = self.trials.quick
        self._become(
            self.trials.change(chosen, lambda trial: replace(_again(trial), stage=Stage.WAITING, quick=quick))
        )
        return idle and bool(chosen)

    async def work(self) -> None:
        """Run one after the other until none waits."""
        self._cancelled = False
        while (trial := self.trials.next()) is not None:
            name = trial.name
            self._set(name, stage=Stage.RUNNING, since=self._clock())
            answer = await self._prover.run(name, trial.quick, partial(self._told, name))
            self._ended(name, answer)

    async def cancel(self, patience: float = STOP_SECONDS) -> None:
        """End the one that runs, by force after so many seconds, and let none of the others begin."""
        self._cancelled = True
        names = [trial.name for trial in self.trials.entries]
        self._become(self.trials.change(names, _cancelled))
        await self._prover.stop(patience)

    def _told(self, name: str, share: float, doing: str) -> None:
        if not self._cancelled:
            self._set(name, share=share, doing=doing)

    def _ended(self, name: str, answer: Answer) -> None:
        if self._cancelled:
            self._set(name, stage=Stage.CANCELLED, doing="")
        elif isinstance(answer, Result):
            self._set(name, stage=Stage.ENDED, result=answer, doing="")
        else:
            self._set(name, stage=Stage.ENDED, facts=answer, doing="")

    def _set(self, name: str, **changes: object) -> None:
        self._become(self.trials.change([name], lambda trial: replace(trial, **changes)))  # type: ignore[arg-type]

    def _become(self, trials: Trials) -> None:
        self.trials = trials
        self._changed(trials)


def _again(trial: Trial) -> Trial:
    """Without what an earlier run found."""
    return replace(trial, result=None, facts=(), share=0.0, doing="")


def _cancelled(trial: Trial) -> Trial:
    if trial.stage is Stage.WAITING:
        return replace(trial, stage=Stage.CANCELLED)
    return replace(trial, stage=Stage.STOPPING, doing="") if trial.stage is Stage.RUNNING else trial
