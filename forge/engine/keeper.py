"""The checkpoints of one phase run: written together with their log, found again, known to the registry.

A checkpoint carries its log: metrics are on the disk before it is, and restoring it deletes what was logged
after it, so that each step is logged once whatever happened.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Mapping
from typing import Any, Protocol

from forge import durable
from forge.contract import HELD_OUT
from forge.engine import checkpoint as checkpoints
from forge.engine.checkpoint import Checkpoint, Meta
from forge.engine.scope import RunScope
from forge.engine.telemetry import MetricsStalledError
from forge.errors import CheckpointError
from forge.registry import Connection, MetricsWriter, cleanup, edits
from forge.retention import folders, steps
from forge.retention.sweep import ACTOR

ROOM_FOR = 2
"""Checkpoints that must fit before one is written."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Tell(Protocol):
    """Records an event of the phase."""

    def __call__(self, kind: str, message: str, *, step: int | None = None, level: str = "info") -> None: ...


class CannotSaveError(Exception):
    """The disk does not take the checkpoint now; everything before it is safe, and it can be tried again."""


class Keeper:
    """Saves and restores one phase run; on the training thread only."""

    def __init__(self, scope: RunScope, phase: str, tell: Tell) -> None:
        self._scope = scope
        self._phase = phase
        self._tell = tell
        self._folder = scope.paths.checkpoints(phase)
        self.saved_step = -1
        """Step of the newest checkpoint; -1 while there is none."""

    def restore(self) -> Checkpoint | None:
        """The newest valid checkpoint, with the log set back to it; none starts the phase anew.

        Raises:
            CheckpointError: a checkpoint cannot be read now, or the folder leads elsewhere.
            MetricsStalledError: the log cannot be set back.
        """
        self._require_own_folder()
        if count := steps.remove_leftovers(self._folder):
            what = f"{count} checkpoints of {self._phase} were left half done"
            self._scope.outbox.post(lambda c: self._note(c, what))
        durable.settle(self._scope.paths.root, self._folder.parent, self._folder)
        found, damaged = self._load_latest()
        deleted, missing = self._go_on_from(found)
        if found is not None:
            text = f"resumed at step {found.step}; {deleted} later points dropped"
            self._tell("resume", text, step=found.step)
            if missing:
                text = (
                    f"the log does not reach back to this checkpoint: points of {', '.join(missing)} are gone"
                )
                self._tell("log", text, step=found.step, level="warning")
            self._check_exactness(found.meta.runtime)
        elif damaged:
            text = "no checkpoint is left that can be used: begins again at step 0"
            self._tell("restart", text, step=0, level="warning")
        return found

    def go_back(self) -> Checkpoint | None:
        """The newest scheduled checkpoint, with the log set back to it; what came after it is deleted.

        One that somebody asked for is not gone back to: the run would depend on when that was.

        Raises:
            CannotSaveError: the disk does not let the log be set back; worth another try.
            CheckpointError: a checkpoint cannot be read now.
        """
        try:
            found, _ = self._load_latest()
            while found is not None and not found.meta.scheduled:
                checkpoints.remove(self._folder, found.step)
                found, _ = self._load_latest()
            self._go_on_from(found)
        except (OSError, MetricsStalledError) as error:
            raise CannotSaveError(_reason(error)) from error
        return found

    def save(self, step: int, state: dict[str, Any], seconds: float, *, scheduled: bool) -> None:
        """Write a checkpoint of `state` at `step`, and delete those that are too many.

        Raises:
            CannotSaveError: no room, or the disk refuses; worth another try.
            CheckpointError: it cannot be kept at all, or the session's folder is gone or leads elsewhere.
        """
        scope = self._scope
        began = time.monotonic()
        if not scope.paths.config.exists():
            raise CheckpointError(
                f"{scope.paths.root} is gone, so nothing can be saved there. Put it back, then resume."
            )
        self._require_own_folder()
        try:
            last_steps = scope.recorder.call(self._make_log_durable)
            meta = Meta(last_steps, scope.fingerprint, seconds, scheduled)
            saved = checkpoints.save(self._folder, step, state, meta, self._require_room)
        except (OSError, MetricsStalledError) as error:
            full = isinstance(error, OSError) and error.errno in _FULL
            # Asked for only now: what it frees serves the next try.
            raise CannotSaveError(_reason(error) + (scope.care.make_room() if full else "")) from error
        stall = time.monotonic() - began
        self.saved_step = step
        self._rotate()
        self._record(saved, stall)
        size = f"{saved.bytes / 1e6:.1f} MB, {stall * 1000:.0f} ms stall"
        self._tell("checkpoint", f"checkpoint step {step} ({size})", step=step)

    def _require_own_folder(self) -> None:
        try:
            folders.check_inside(self._scope.paths)
        except folders.NotOursError as error:
            raise CheckpointError(str(error)) from error

    def _load_latest(self) -> tuple[Checkpoint | None, list[int]]:
        """The newest checkpoint that is whole, and the steps of those that were set aside for it."""
        damaged: list[int] = []

        def on_damaged(step: int, reason: str) -> None:
            damaged.append(step)
            text = f"checkpoint of step {step} is damaged and was skipped: {reason}"
            self._tell("damaged", text, step=step, level="warning")

        return checkpoints.load_latest(self._folder, on_damaged), damaged

    def _go_on_from(self, found: Checkpoint | None) -> tuple[int, list[str]]:
        """Set the log back to a checkpoint; how many points that deleted, and which series lack some."""
        last_steps = found.meta.last_steps if found else {}
        lost = self._scope.recorder.call(lambda writer: self._set_back(writer, last_steps))
        if found is not None:
            # Whoever was killed just after a save has left one too many.
            self._rotate()
        self._scope.outbox.post(self._match_records)
        self.saved_step = found.step if found else -1
        return lost

    def _set_back(self, writer: MetricsWriter, last_steps: Mapping[str, int]) -> tuple[int, list[str]]:
        """How many later points were deleted, and which series end before the checkpoint says."""
        deleted, found = writer.rewind(self._phase, last_steps), writer.last_steps(self._phase)
        return deleted, [name for name, step in last_steps.items() if found.get(name) != step]

    def _make_log_durable(self, writer: MetricsWriter) -> dict[str, int]:
        writer.commit_durably()
        return writer.last_steps(self._phase)

    def _require_room(self, size: int) -> None:
        if self._free() >= ROOM_FOR * size:
            return
        waiting = self._scope.care.make_room()
        if (free := self._free()) < ROOM_FOR * size:
            raise CannotSaveError(
                f"{free / 1e6:.0f} MB are free where {self._scope.paths.root} is, and {ROOM_FOR} checkpoints "
                f"need {ROOM_FOR * size / 1e6:.0f} MB{waiting}"
            )

    def _free(self) -> int:
        return shutil.disk_usage(self._scope.paths.root).free

    def _rotate(self) -> None:
        try:
            wanted = (self._best(), checkpoints.newest_scheduled(self._folder))
            also = [step for step in wanted if step is not None]
            checkpoints.rotate(self._folder, self._scope.config.runtime.keep_checkpoints, also)
        except (OSError, MetricsStalledError) as error:
            # The new one is safe; that an old one lies about is no reason to stop.
            self._tell("rotate", f"an old checkpoint could not be deleted: {_reason(error)}", level="warning")

    def _best(self) -> int | None:
        """The checkpoint whose own step has the lowest held-out loss; of equals the newest."""
        there = steps.finished_steps(self._folder)
        losses = self._scope.recorder.call(lambda writer: writer.values(self._phase, HELD_OUT, there))
        return min(losses, key=lambda step: (losses[step], -step), default=None)

    def _record(self, saved: checkpoints.Saved, stall: float) -> None:
        path, now = str(saved.path.relative_to(self._scope.paths.root)), time.time()

        def record(c: Connection) -> None:
            edits.add_checkpoint(
                c, self._scope.session_id, phase=self._phase, step=saved.step, path=path, bytes=saved.bytes,
                seconds=stall, now=now,
            )  # fmt: skip
            self._match_records(c)

        self._scope.outbox.post(record)

    def _note(self, c: Connection, what: str) -> None:
        cleanup.add_deletion(c, self._scope.session_id, what, actor=ACTOR, action="tidy", now=time.time())

    def _match_records(self, c: Connection) -> None:
        """Make the registry say what is on disk: a crash between the two left them apart."""
        scope = self._scope
        steps.match_records(
            c,
            scope.session_id,
            self._phase,
            scope.paths.root,
            self._folder,
            actor=ACTOR,
            why="was rotated",
        )

    def _check_exactness(self, before: Mapping[str, Any]) -> None:
        now = self._scope.fingerprint
        moved = [f"{key} {before.get(key)} → {now[key]}" for key in now if before.get(key) != now[key]]
        if moved:
            self._tell("inexact", "exact resume is off: " + ", ".join(moved), level="warning")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error).rstrip(".")
