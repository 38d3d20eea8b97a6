"""Divergence: after too many skipped updates in a row, back to the last checkpoint, and on more slowly.

How often a phase went back is in its checkpoints, and all else is computed again. So a run that is killed or
stopped anywhere on the way comes to the same divergence, goes back the same way, and ends with the same
weights. Only a scheduled checkpoint is gone back to: any other would depend on who asked for it when.
"""

from __future__ import annotations

from typing import Any

from forge.config import TrainingConfig
from forge.contract import Recoverable, Stateful
from forge.engine.checkpoint import Checkpoint
from forge.engine.generators import SeededGenerators
from forge.engine.tree import flatten, unflatten
from forge.errors import TrainingError


class Recovery:
    """What a phase run needs to find back; for states that are not `Recoverable` nothing ever happens."""

    def __init__(self, phase: str, state: Stateful, rng: SeededGenerators, training: TrainingConfig) -> None:
        self._phase = phase
        self._state = state
        self._rng = rng
        self._training = training
        self._able = state if isinstance(state, Recoverable) else None
        self._start: dict[str, Any] | None = None
        """How the phase began, while there may be no checkpoint to go back to."""
        self.due = False
        """A checkpoint is due, and waits for an update that is not skipped."""
        self.times = 0
        """How often the phase went back."""
        self.unmeasured = True
        """The evaluation of this step was not done, or not to its end."""

    @property
    def failing(self) -> bool:
        """The last update was skipped: what there is now is nothing to go back to."""
        return self._able is not None and self._able.skipped_in_row > 0

    @property
    def lost(self) -> bool:
        """So many updates were skipped in a row that it makes no sense to go on from here."""
        return self._able is not None and self._able.skipped_in_row >= self._training.max_skipped

    @property
    def rate(self) -> float:
        """What the learning rate is multiplied with now."""
        return self._training.rollback_lr_factor**self.times

    def contents(self) -> dict[str, Any]:
        """What a checkpoint of this moment holds."""
        return {
            "state": self._state.state_dict(),
            "generators": self._rng.state_dict(),
            "recovery": {"times": self.times, "due": self.due, "unmeasured": self.unmeasured},
        }

    def begin(self, found: Checkpoint | None) -> None:
        """Take over the checkpoint that the phase run resumes from; none begins at the start."""
        if self._able is not None and (found is None or not found.meta.scheduled):
            self._start = _copied(self.contents())
        if found is not None:
            recovery = found.state["recovery"]
            self._take_over(found.state, int(recovery["times"]))
            self.due = bool(recovery["due"]) and not found.meta.scheduled

    def stepped(self, *, due: bool) -> None:
        """A step was taken; whether it is one after which a checkpoint is due."""
        self.due, self.unmeasured = self.due or due, True

    @property
    def scheduled(self) -> bool:
        """Whether a checkpoint written now is one to go back to."""
        return self.due and not self.failing

    def saved(self) -> None:
        """A checkpoint of this moment was written."""
        if self.scheduled:
            self._start, self.due = None, False

    def require_another(self, step: int) -> None:
        """Return silently when the phase may go back once more.

        Raises:
            TrainingError: it did so too often.
        """
        training, name = self._training, self._phase
        if self.times < training.max_rollbacks:
            return
        so_far = (
            f"it went back to a checkpoint {self.times} times, the last time with {self.rate:g} of the rate"
            if self.times
            else f"{name}.max_rollbacks is 0"
        )
        lower = training.learning_rate * self.rate * training.rollback_lr_factor
        raise TrainingError(
            f"{name} diverged: loss or gradient was NaN or infinite {training.max_skipped} times in a row up "
            f"to step {step}, and {so_far}. Resumed, it would come here again; make a session with a lower "
            f"rate, such as --set {name}.learning_rate={lower:.2g}."
        )

    def go_back(self, found: Checkpoint | None) -> None:
        """Be again what a checkpoint holds, or the start, and learn more slowly from there."""
        begun = self._start if found is None else found.state
        if begun is None:
            raise TrainingError(
                f"{self._phase} diverged, and no checkpoint is left from before that. Make a session with a "
                f"lower {self._phase}.learning_rate."
            )
        self._take_over(_copied(begun) if found is None else begun, self.times + 1)
        self.due = False

    def _take_over(self, contents: dict[str, Any], times: int) -> None:
        self._state.load_state_dict(contents["state"])
        self._rng.load_state_dict(contents["generators"])
        self.unmeasured = bool(contents["recovery"]["unmeasured"])
        self.times = times
        if self._able is not None:
            self._able.slow_down(times)


def _copied(contents: dict[str, Any]) -> dict[str, Any]:
    """A copy in main memory, as a checkpoint would give it back."""
    tree, tensors = flatten(contents)
    return dict(unflatten(tree, {name: t.to("cpu", copy=True) for name, t in tensors.items()}))
