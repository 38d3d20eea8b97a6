"""Every screen as a picture, in both sizes that it must work in; the pictures are in `snapshots/`.

Draw them anew with `make snapshots`, and look at each that changed (`rsvg-convert FILE.svg -o /tmp/x.png`)
before it is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from forge.home import Home
from forge_tui.screens.confirm import ConfirmDialog
from tests.conftest import ROOT
from tests.ui import homes
from tests.ui.provers import FakeProver
from tests.ui.seed import FIRST, FakeEngine
from tests.ui.stage import LARGE, SMALL, Stage, forge_app, press, settle, stage

Compare = Callable[..., bool]
SMALLEST = (60, 16)
SIZES = {f"{width}x{height}": (width, height) for width, height in (SMALL, LARGE)}


@dataclass(frozen=True)
class Shot:
    """A home, what is pressed there, and how the application was started."""

    home: str
    keys: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    hosting: str | None = None
    held: tuple[str, ...] = ()
    """Proofs that do not end."""


def _shot(
    home: str, *keys: str, hosting: str | None = None, held: tuple[str, ...] = (), **options: Any
) -> Shot:
    return Shot(home, keys, options, hosting, held)


BAD_FORM = ("n", "tab", "=" + "x" * 61, "tab", "=zz", "tab", "=k", "tab", "=x", "tab", "tab", "=-1")

EMPTY_POLICY = ("e", *(("end", "ctrl+u", "down") * 4))

SHOTS = {
    "dashboard-running": _shot("running"),
    "dashboard-gpu": _shot("gpu"),
    "dashboard-forging": _shot("forging"),
    "dashboard-evolving": _shot("evolving"),
    "dashboard-evolved": _shot("evolved"),
    "dashboard-evolved-zoomed": _shot("evolved", "tab", "tab", "tab", "tab", "z"),
    "dashboard-paused": _shot("paused"),
    "dashboard-finished": _shot("finished"),
    "dashboard-failed": _shot("failed"),
    "dashboard-interrupted": _shot("interrupted"),
    "dashboard-nan": _shot("nan"),
    "dashboard-starting": _shot("starting"),
    "dashboard-empty": _shot("empty"),
    "dashboard-million": _shot("million"),
    "dashboard-hostile": _shot("hostile"),
    "dashboard-ascii": _shot("running", ascii_only=True),
    "sessions-few": _shot("several", "L"),
    "sessions-crowd": _shot("crowd", "L", "ctrl+d", "j"),
    "sessions-filtered": _shot("crowd", "L", "slash", "=run-0123", "enter"),
    "sessions-hostile": _shot("hostile", "L"),
    "sessions-labels": _shot("old", "L"),
    "labels": _shot("old", "L", "G", "k", "m"),
    "sessions-empty": _shot("empty", "L"),
    "cleanup": _shot("old", "C"),
    "cleanup-crowd": _shot("crowd", "C", "G"),
    "cleanup-nothing": _shot("running", "C"),
    "cleanup-empty": _shot("empty", "C"),
    "cleanup-refused": _shot("old", "C", *EMPTY_POLICY),
    "cleanup-question": _shot("old", "C", "x"),
    "cleanup-trash": _shot("old", "C", "tab", "j"),
    "cleanup-ascii": _shot("old", "C", ascii_only=True),
    "new-valid": _shot("finished", "n"),
    "new-problems": _shot("empty", *BAD_FORM),
    "new-missing-corpus": _shot("empty", "n", "tab", "tab", "ctrl+u", "=text:/nowhere/*.txt"),
    "help-dashboard": _shot("running", "question_mark"),
    "help-sessions": _shot("several", "L", "question_mark"),
    "help-new": _shot("empty", "n", "f1"),
    "validate-idle": _shot("finished", "T"),
    "validate-running": _shot("running", "T", "a", held=("wal",)),
    "validate-passed": _shot("finished", "T", "j", "a"),
    "validate-failed": _shot("finished", "T", "j", "j", "a"),
    "validate-undecided": _shot("finished", "T", "j", "j", "j", "a"),
    "validate-cannot-run": _shot("empty", "T", "j", "j", "j", "j", "enter"),
    "validate-doctor": _shot("finished", "T", "enter"),
    "help-validate": _shot("finished", "T", "question_mark"),
    "palette": _shot("running", "ctrl+p"),
    "quit": _shot("running", "q", hosting=FIRST),
}


DETAILS = {
    "dashboard-other-phase": _shot("forging", "1"),
    "dashboard-measuring": _shot("measuring"),
    "dashboard-stopped": _shot("stopped"),
    "dashboard-hanging": _shot("hanging"),
    "dashboard-created": _shot("created"),
    "dashboard-requested": _shot("requested"),
    "dashboard-readonly": _shot("running", "s", readonly=True, engine=None),
    "dashboard-zoom": _shot("running", "z"),
    "dashboard-zoom-memory": _shot("gpu", "tab", "tab", "tab", "z"),
    "dashboard-log": _shot("running", "y"),
    "dashboard-hint": _shot("running", "r"),
    "sessions-end": _shot("crowd", "L", "G"),
    "sessions-nothing-found": _shot("several", "L", "slash", "=zzz"),
    "cleanup-readonly": _shot("old", "C", "x", readonly=True, engine=None),
    "cleanup-purge": _shot("old", "C", "tab", "D"),
    "cleanup-hostile": _shot("hostile", "C", "e", "end", "ctrl+u", "=0", "enter"),
    "help-cleanup": _shot("old", "C", "question_mark"),
    "new-preset": _shot("empty", "n", "left"),
    "palette-search": _shot("running", "ctrl+p", "=stop"),
    "palette-validate": _shot("finished", "T", "ctrl+p"),
    "validate-cancelled": _shot("finished", "T", "a", "x", held=("ste",)),
    "validate-ascii": _shot("finished", "T", "j", "j", "a", ascii_only=True),
}
"""Drawn in the smaller size only, where room is short."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SHOTS)
def test_screen(snap_compare: Compare, seeded: Callable[[str], Home], name: str, size: str) -> None:
    assert _compare(snap_compare, seeded, SHOTS[name], SIZES[size])


@pytest.mark.parametrize("name", DETAILS)
def test_detail(snap_compare: Compare, seeded: Callable[[str], Home], name: str) -> None:
    assert _compare(snap_compare, seeded, DETAILS[name], SMALL)


def _compare(snap_compare: Compare, seeded: Callable[[str], Home], shot: Shot, size: tuple[int, int]) -> bool:
    fakes = {"engine": FakeEngine(hosting=shot.hosting), "prover": FakeProver(held=shot.held)}

    async def play(pilot: Stage) -> None:
        await settle(pilot)
        await press(pilot, *shot.keys)

    app = stage(seeded(shot.home), **{**fakes, **shot.options})
    return snap_compare(app, terminal_size=size, run_before=play)


@pytest.mark.parametrize("name", ["dashboard-failed", "sessions-few", "quit"])
def test_without_colour(
    snap_compare: Compare, seeded: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert _compare(snap_compare, seeded, SHOTS[name], SMALL)


def test_confirm(snap_compare: Compare, seeded: Callable[[str], Home]) -> None:
    question = "Delete calm-heron-40 and 3 others (412 MB)? They go to the trash and can be taken back."

    async def play(pilot: Stage) -> None:
        await settle(pilot)
        await forge_app(pilot).push_screen(ConfirmDialog("delete [4]", question))
        await settle(pilot)

    assert snap_compare(stage(seeded("several")), run_before=play)


@pytest.mark.parametrize("size", SIZES)
def test_cleaned(snap_compare: Compare, tmp_path: Path, size: str) -> None:
    engine = FakeEngine()

    async def play(pilot: Stage) -> None:
        await settle(pilot)
        await press(pilot, "C", "x", "y")

    app = stage(homes.make("old", tmp_path / "home"), engine=engine)
    try:
        assert snap_compare(app, terminal_size=SIZES[size], run_before=play)
    finally:
        engine.close()


@pytest.mark.parametrize("size", SIZES)
def test_sessions_trash(snap_compare: Compare, tmp_path: Path, size: str) -> None:
    engine = FakeEngine()

    async def play(pilot: Stage) -> None:
        await settle(pilot)
        await press(pilot, "L", "j", "D")

    app = stage(homes.make("old", tmp_path / "home"), engine=engine)
    try:
        assert snap_compare(app, terminal_size=SIZES[size], run_before=play)
    finally:
        engine.close()


@pytest.mark.parametrize("size", ["plan", "trash", "policy"])
def test_cleanup_on_the_smallest_screen(
    snap_compare: Compare, seeded: Callable[[str], Home], size: str
) -> None:
    keys = {"plan": (), "trash": ("tab",), "policy": ("e",)}[size]
    assert _compare(snap_compare, seeded, _shot("old", "C", *keys), SMALLEST)


def test_too_small(snap_compare: Compare, seeded: Callable[[str], Home]) -> None:
    assert snap_compare(stage(seeded("running")), terminal_size=(59, 15), run_before=settle)


@pytest.mark.parametrize(
    "name", ["dashboard-running", "sessions-few", "new-problems", "help-dashboard", "validate-failed"]
)
def test_smallest(snap_compare: Compare, seeded: Callable[[str], Home], name: str) -> None:
    assert _compare(snap_compare, seeded, SHOTS[name], SMALLEST)


def test_no_snapshot_is_left_over(request: pytest.FixtureRequest) -> None:
    here = Path(__file__).stem
    names = {item.name for item in request.session.items if item.path.stem == here}
    if "test_confirm" not in names or len(names) < len(SHOTS) * len(SIZES):
        pytest.skip("only part of the file was asked for")
    kept = {path.stem for path in (ROOT / "snapshots" / "ui" / here).glob("*.svg")}
    assert kept <= names
