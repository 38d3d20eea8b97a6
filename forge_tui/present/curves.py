"""The loss chart: which series lie on which axis, and the events on it.

Two units never share an axis: the training loss is in nats a token, the held-out loss in bits a byte. The
branches of Cognate lie over each other, from where their base ended on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.text import Text

from forge.config import BRANCHES, SEARCHED_PHASES
from forge_tui import units
from forge_tui.charts.axis import grown
from forge_tui.charts.raster import Chart, Layer, Mark, Trace
from forge_tui.charts.series import SeriesView
from forge_tui.state import Snapshot, progress
from forge_tui.text import Part, compose, safe

_MARKS = {
    "checkpoint": ("▴", False),
    "resume": ("⟲", False),
    "phase": ("│", False),
    "oom": ("!", True),
    "skipped": ("!", True),
    "diverged": ("⟲", True),
    "disk": ("!", True),
    "error": ("✗", True),
}


BRANCH_LOSSES = tuple(f"loss_{branch}" for branch in BRANCHES)
"""Series of the branches' training losses, as if all had begun at once."""
BRANCH_LAYERS = dict(zip(BRANCH_LOSSES, (Layer.SECOND, Layer.THIRD, Layer.FOURTH), strict=True))
BRANCH_INKS = dict(zip(BRANCH_LOSSES, ("second", "third", "fourth"), strict=True))


def loss_chart(snapshot: Snapshot, *, log: bool = False) -> Chart:
    """Training loss (raw faint, smoothed bright) and held-out points; of an evolution the fitness, and of
    branches the loss of each."""
    if snapshot.phase in SEARCHED_PHASES:
        return _chart(snapshot, _fitness(snapshot), log=log)
    branches = {name: snapshot.view(name) for name in BRANCH_LOSSES if len(snapshot.view(name))}
    if branches:
        return _branches_chart(snapshot, branches, log=log)
    bits = snapshot.view("train_bpb")
    train = bits if len(bits) else snapshot.view("loss")
    held_out = snapshot.view("val")
    traces = [
        Trace(train, "raw", Layer.RAW),
        Trace(train, "smooth", Layer.LINE),
        Trace(held_out, "points", Layer.POINT, right=not len(bits)),
    ]
    if not len(train):
        traces = [Trace(held_out, "points", Layer.POINT)]
    return _chart(snapshot, traces, log=log)


def _fitness(snapshot: Snapshot) -> list[Trace]:
    """Of each generation the best, the mean and the worst; on an axis of its own how far apart they are."""
    return [
        Trace(snapshot.view("worst"), "line", Layer.RAW),
        Trace(snapshot.view("mean"), "line", Layer.SECOND),
        Trace(snapshot.view("best"), "line", Layer.LINE),
        Trace(snapshot.view("diversity"), "points", Layer.POINT, right=True),
    ]


def _chart(snapshot: Snapshot, traces: Sequence[Trace], *, log: bool) -> Chart:
    last = max(0, *(trace.view.last_step for trace in traces))
    now = progress(snapshot)
    end = grown(float(last), float(now.total) if now is not None and now.total else None)
    return Chart(tuple(traces), _marks(snapshot), 0.0, end, log=log)


def _branches_chart(snapshot: Snapshot, branches: Mapping[str, SeriesView], *, log: bool) -> Chart:
    begun = min(int(view.first[0]) for view in branches.values())
    base = _before(snapshot.view("loss"), begun)
    traces = [
        Trace(base, "raw", Layer.RAW),
        Trace(base, "smooth", Layer.LINE),
        *(Trace(view, "smooth", BRANCH_LAYERS[name]) for name, view in branches.items()),
        Trace(_before(snapshot.view("val"), begun), "points", Layer.POINT, right=True),
    ]
    end = grown(float(max(view.last_step for view in branches.values())), None)
    return Chart(tuple(traces), _marks(snapshot), 0.0, end, log=log)


def _before(view: SeriesView, step: int) -> SeriesView:
    """What lies before a step."""
    kept = int((view.step < step).sum())
    parts = {name: getattr(view, name)[:kept] for name in ("first", "step", "low", "high", "value", "broken")}
    return replace(view, **parts)


def _marks(snapshot: Snapshot) -> tuple[Mark, ...]:
    return tuple(
        Mark(event.step, *_MARKS[event.kind])
        for event in snapshot.events
        if event.step is not None and event.kind in _MARKS and event.phase == snapshot.phase
    )


def legend(snapshot: Snapshot, width: int, *, log: bool = False) -> Text:
    """What the lines of the loss chart are, with their units and newest values."""
    if snapshot.phase in SEARCHED_PHASES:
        return _fitness_legend(snapshot, width, log=log)
    if any(name in snapshot.latest for name in BRANCH_LOSSES):
        return _branches_legend(snapshot, width, log=log)
    bits = len(snapshot.view("train_bpb")) > 0
    name, unit = ("train_bpb", "bits/byte") if bits else ("loss", "nats/token")
    roomy = width >= 52
    parts: list[Part] = []
    if name in snapshot.latest:
        parts += [("━ ", "train"), ("train ", "label"), _figure(snapshot.latest[name])]
        parts += [(f" {unit}", "faint")] if roomy or not log else []
    if "val" in snapshot.latest:
        parts += [
            "   " if roomy else "  ",
            ("• ", "val"),
            ("val ", "label"),
            _figure(snapshot.latest["val"]),
        ]
        parts += [(" bits/byte", "faint")] if roomy else []
    if not parts:
        return safe("the curve begins with the first step", width, "label")
    if log:
        parts += [("   log", "accent")]
    return compose(*parts, width=width)


def _fitness_legend(snapshot: Snapshot, width: int, *, log: bool) -> Text:
    parts: list[Part] = []
    for name, sign, ink in (
        ("best", "━ ", "train"), ("mean", "━ ", "mean"), ("worst", "━ ", "faint"), ("diversity", "• ", "val"),
    ):  # fmt: skip
        if name in snapshot.latest:
            parts += [
                "  " if parts else "",
                (sign, ink),
                (f"{name} ", "label"),
                _figure(snapshot.latest[name]),
            ]
    if not parts:
        return safe("the curve begins with the first generation", width, "label")
    return compose(*parts, *([("   log", "accent")] if log else []), width=width)


def _branches_legend(snapshot: Snapshot, width: int, *, log: bool) -> Text:
    parts: list[Part] = [("━ ", "train"), ("base", "label")]
    for name in BRANCH_LOSSES:
        if name in snapshot.latest:
            label = name.removeprefix("loss_")
            # Where there is no room for all of it, the newest values are what counts.
            parts += ["  ", ("━ ", BRANCH_INKS[name]), (f"{label if width >= 64 else label[:3]} ", "label")]
            parts += [_figure(snapshot.latest[name])]
    parts += [(" nats/token", "faint")] if width >= 80 else []
    parts += [("   log", "accent")] if log else []
    return compose(*parts, width=width)


def _figure(value: float) -> Part:
    return units.figure(value), "strong" if math.isfinite(value) else "bad"
