"""Models on disk without a record: their phase was killed before it, or the registry is an older copy.

A whole one is never deleted while there is no other copy of it: it may be the only result of days. Deleted is
what certainly is half done, and what is the same, bit for bit, as a model that is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from forge import durable
from forge.home import SessionPaths, is_id
from forge.registry import ModelRow, State
from forge.retention import history, models, steps
from forge.retention.history import History

TEMPORARY = ".tmp"
"""The end of the name of what is being written or deleted."""
ASIDE = "aside-"
"""How the name begins of a whole model that was set aside."""
GIVEN_UP = frozenset({State.RUNNING, State.PAUSED, State.STOPPED, State.INTERRUPTED, State.FAILED})
"""States of a phase that will write its models anew, once nobody is at work on it."""


@dataclass(frozen=True)
class Whole:
    """A model that is what its card says."""

    path: Path
    row: ModelRow
    parents: Mapping[str, float]
    sha256: str


@dataclass
class Loose:
    """What lies among a session's models without a record, by what is to become of it."""

    half: list[Path] = field(default_factory=list)
    """Half written, half deleted, or damaged and of a phase that will make it again: to be deleted."""
    twins: dict[Path, str] = field(default_factory=dict)
    """The same as a recorded model, whose name is given: to be deleted."""
    back: dict[str, list[Whole]] = field(default_factory=dict)
    """By phase: the models of a phase that was completed, to be recorded again."""
    aside: list[Whole] = field(default_factory=list)
    """Of a completed phase that has other models: to be set aside."""
    waiting: list[Whole] = field(default_factory=list)
    """Of a phase that is not completed; they are kept until it is."""
    foreign: list[Path] = field(default_factory=list)
    """What nobody can tell: left alone, and told."""
    history: History = field(default_factory=History)

    @property
    def to_do(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self.half or self.twins or self.back or self.aside)


def look(paths: SessionPaths, recorded: Mapping[str, str], phases: Mapping[str, State]) -> Loose:
    """What lies among a session's models without a record; reads every byte of it.

    Args:
        paths: the session's.
        recorded: the name of each model that the registry knows, by id.
        phases: the state of each phase, in the order of the pipeline.
    """
    loose, whole = Loose(), dict[str, list[Whole]]()
    for entry in _entries(paths):
        if entry.name in recorded or entry.is_symlink() or not is_id(entry.name.removesuffix(TEMPORARY)):
            continue  # known, or a stranger's, however it is called
        if entry.name.endswith(TEMPORARY):
            loose.half.append(entry)
        elif (found := _judge(paths, entry, phases)) is None:
            loose.foreign.append(entry)
        elif isinstance(found, Path):
            loose.half.append(found)
        else:
            whole.setdefault(found.row.phase, []).append(found)
    if whole:
        loose.history = history.read(paths)
        _sort(loose, whole, paths, recorded, phases)
    return loose


def half_done(paths: SessionPaths, recorded: Mapping[str, str], phase: str) -> list[Path]:
    """What a phase that begins anew will write again: half written, or damaged and not recorded."""
    return look(paths, recorded, {phase: State.RUNNING}).half


def remove(path: Path) -> None:
    """Delete a model; half deleted, it is still known as such."""
    if path.name.endswith(TEMPORARY):
        durable.discard_tree(path)
    else:
        durable.retire_tree(path, path.name + TEMPORARY)


def set_aside(path: Path) -> None:
    """Rename a whole model out of the way; it stays until its session goes."""
    durable.move(path, path.with_name(ASIDE + path.name))


def _judge(paths: SessionPaths, entry: Path, phases: Mapping[str, State]) -> Whole | Path | None:
    """A whole model; its path, where it is damaged and will be made again; none, where nobody can tell."""
    try:
        card = models.read_card(entry)
        phase = str(card["phase"])
        # Not one of ours, or copied here by hand: it is not deleted on a guess.
        if phase not in phases or (card["id"], card["session"]) != (entry.name, paths.root.name):
            return None
    except models.UNREADABLE:
        return None
    try:
        card = models.verify(entry)
    except models.UNREADABLE as error:
        # One that cannot be read now may be whole all the same.
        damaged = isinstance(error, FileNotFoundError) or not isinstance(error, OSError)
        return entry if damaged and phases[phase] in GIVEN_UP else None
    try:
        row, parents = models.row_of(paths, entry, card)
    except models.UNREADABLE:
        return None  # whole, with a card that does not fit a record
    return Whole(entry, row, parents, str(card["sha256"]))


def _sort(
    loose: Loose,
    whole: Mapping[str, list[Whole]],
    paths: SessionPaths,
    recorded: Mapping[str, str],
    phases: Mapping[str, State],
) -> None:
    """Decide over whole models, phase by phase: one counts as completed only if all before it do."""
    there = _recorded(paths, recorded)
    order, before = list(phases), True
    for place, phase in enumerate(order):
        found, known = whole.get(phase, []), there.get(phase, {})
        completed = phases[phase] is State.COMPLETED
        later = order[place + 1 :]
        if known or not found:
            _spare(loose, found, known, completed=completed)
        elif before and (completed or _was_completed(paths, phase, later, whole, loose.history)):
            completed = True
            # Of several attempts the newest is the one that was recorded.
            newest = {model.row.name: model for model in sorted(found, key=lambda model: model.row.id)}
            loose.back[phase] = list(newest.values())
            rest = [model for model in found if model not in loose.back[phase]]
            _spare(loose, rest, {m.sha256: m.row.name for m in newest.values()}, completed=True)
        else:
            loose.waiting += found
        before = before and completed


def _spare(loose: Loose, found: list[Whole], known: Mapping[str, str], *, completed: bool) -> None:
    """Decide over models of a phase that has others already; `known` are their names by hash."""
    for model in found:
        if not completed:
            loose.waiting.append(model)
        elif model.sha256 in known:
            loose.twins[model.path] = known[model.sha256]
        else:
            loose.aside.append(model)


def _was_completed(
    paths: SessionPaths, phase: str, later: list[str], whole: Mapping[str, list[Whole]], told: History
) -> bool:
    """Whether a phase was once recorded as completed: its log says so, or a later phase had begun."""
    return phase in told.reports or any(
        other in whole or steps.finished_steps(paths.checkpoints(other)) for other in later
    )


def _recorded(paths: SessionPaths, recorded: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """By phase: the names of recorded models that are whole, by the hash of their weights."""
    found: dict[str, dict[str, str]] = {}
    for model_id, name in recorded.items():
        try:
            card = models.verify(paths.model(model_id))
            found.setdefault(str(card["phase"]), {})[str(card["sha256"])] = name
        except models.UNREADABLE:
            continue  # no copy of anything: the audit tells of it
    return found


def _entries(paths: SessionPaths) -> list[Path]:
    folder = paths.models
    # Never through a link: what it leads to is not Forge's to delete.
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
