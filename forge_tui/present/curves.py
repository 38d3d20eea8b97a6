"""The loss chart: which series lie on which axis, and the events on it.

Two units never share an axis: the training loss is in nats a token, the held-out loss in bits a byte.
"""

from __future__ import annotations

import math

from rich.text import Text

from forge_tui import units
from forge_tui.charts.axis import grown
from forge_tui.charts.raster import Chart, Layer, Mark, Trace
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


def loss_chart(snapshot: Snapshot, *, log: bool = False) -> Chart:
    """Training loss (raw faint, smoothed bright) and held-out points."""
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
    last = max(train.last_step, held_out.last_step, 0)
    now = progress(snapshot)
    end = grown(float(last), float(now.total) if now is not None and now.total else None)
    marks = tuple(
        Mark(event.step, *_MARKS[event.kind])
        for event in snapshot.events
        if event.step is not None and event.kind in _MARKS and event.phase == snapshot.phase
    )
    return Chart(tuple(traces), marks, 0.0, end, log=log)


def legend(snapshot: Snapshot, width: int, *, log: bool = False) -> Text:
    """What the lines of the loss chart are, with their units and newest values."""
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


def _figure(value: float) -> Part:
    return units.figure(value), "strong" if math.isfinite(value) else "bad"
