"""Numbers of the phase that is looked at, and the reports of finished ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from forge.registry.lifecycle import State
from forge.registry.rows import PhaseRunRow
from forge_tui import units
from forge_tui.present import words
from forge_tui.present.curves import BRANCH_LOSSES
from forge_tui.present.status import bar
from forge_tui.state import Snapshot
from forge_tui.text import cells, compose, pad, safe

_COLUMN = 22
STOP = "stop_"
"""Before the number of a supervision step: the share of tokens that stop after it."""

NAMES = {
    "loss": ("train", "nats/token"),
    "train_bpb": ("train", "bits/byte"),
    "val": ("val", "bits/byte"),
    "lr": ("lr", ""),
    "grad_norm": ("grad", ""),
    "lambda": ("λ", ""),
    "zeros": ("zeros", "%"),
    "gate": ("gate", "%"),
    "stops": ("stops", "steps"),
    "tokens_per_second": ("speed", "tok/s"),
}
"""Label and unit of the figures that phases log, in the order in which they are shown."""


def numbers(snapshot: Snapshot, width: int) -> list[Text]:
    """The newest value of everything the phase logs, in as many columns as fit."""
    latest = snapshot.latest
    if not latest:
        return [safe("nothing measured yet", width, "label")]
    known = [name for name in NAMES if name in latest]
    stops = sorted(name for name in latest if name.startswith(STOP))
    # Curves of their own have their newest value in the legend.
    shown_elsewhere = {*NAMES, *stops, *BRANCH_LOSSES}
    names = known + sorted(name for name in latest if name not in shown_elsewhere)
    columns = max(1, width // _COLUMN)
    each = width // columns
    entries = [pad(_entry(name, latest[name], each), each) for name in names]
    lines = []
    for start in range(0, len(entries), columns):
        line = compose()
        for entry in entries[start : start + columns]:
            line.append_text(entry)
        lines.append(line)
    return lines + [_stop(name.removeprefix(STOP), latest[name], width) for name in stops]


def _stop(step: str, share: float, width: int) -> Text:
    """One bar of the histogram of halting: the share of tokens that stop after a supervision step."""
    room = min(24, max(4, width - 22))
    known = share if math.isfinite(share) else 0.0
    text = compose((f"stop {step:<2} ", "label"), *bar(known, room), (f" {100 * share:3.0f} %", "value"))
    return pad(text, width)


def _entry(name: str, value: float, width: int) -> Text:
    label, unit = NAMES.get(name, (name, ""))
    broken = not math.isfinite(value)
    if name == "tokens_per_second":
        text = units.count(value)
    elif name in ("zeros", "gate"):
        text = units.figure(100 * value, 3)
    else:
        text = units.figure(value)
    ink = "bad" if broken else "strong" if name in ("loss", "val", "train_bpb") else "value"
    line = compose((f"{label:<6}", "label"), (text, ink))
    if unit and line.cell_len + 1 + cells(unit) <= width:
        line.append_text(compose((f" {unit}", "faint")))
    return line


def reports(snapshot: Snapshot) -> list[PhaseRunRow]:
    """The phase runs whose report should be shown: all of a finished session, else the one looked at."""
    finished = snapshot.session is not None and snapshot.session.state is State.COMPLETED
    return [run for run in snapshot.phases if run.report and (finished or run.phase == snapshot.phase)]


def report_lines(runs: list[PhaseRunRow], width: int) -> list[Text]:
    """The reports one under the other; the last phase first, because its figures are what was asked for."""
    labels = [cells(str(row.get("label", ""))) for run in runs for row in _rows(run)]
    label_width = min(max(labels, default=0) + 1, max(12, width - 16))
    lines: list[Text] = []
    for run in reversed(runs):
        lines.append(_report_head(run, run.report or {}, width))
        lines += [_report_row(row, label_width, width) for row in _rows(run)]
    return lines


def _rows(run: PhaseRunRow) -> list[Mapping[str, Any]]:
    rows = (run.report or {}).get("rows")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _report_head(run: PhaseRunRow, report: Mapping[str, Any], width: int) -> Text:
    head = compose((str(report.get("title") or words.phase_title(run.phase)), "strong"))
    seconds, peak = report.get("seconds"), report.get("peak_memory_bytes")
    if isinstance(seconds, (int, float)):
        head.append_text(compose((f" · {units.duration(seconds)}", "label")))
    if isinstance(peak, (int, float)) and peak:
        head.append_text(compose((f" · peak {units.size(peak)}", "label")))
    return pad(head, width)


def _report_row(row: Mapping[str, Any], label_width: int, width: int) -> Text:
    value = row.get("value")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    digits = 3 if row.get("unit") == "%" else 4
    text = "not measured" if value is None else units.figure(float(value), digits) if number else str(value)
    line = pad(compose(" ", (str(row.get("label", "")), "label")), label_width + 1)
    line.append_text(compose((f"{text:>6}", "strong")))
    for part, style in ((f" {row.get('unit') or ''}", "value"), (f"  {row.get('note') or ''}", "faint")):
        # What does not fit is left out whole: half a unit says nothing.
        if part.strip() and line.cell_len + cells(part) <= width:
            line.append_text(compose((part, style)))
    return pad(line, width)
