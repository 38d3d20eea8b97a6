"""Lines and charts of a snapshot: whatever is in it, they fit, they are harmless, and they tell the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from forge.registry import CommandRow, EventRow, Heartbeat, PhaseRunRow, SessionRow, State, TrashRow
from forge.retention import Decision, Outcome, Plan, Purged, SessionCleanupPolicy, Undone, Verdict
from forge_tui import actions
from forge_tui.charts.raster import Layer, draw
from forge_tui.charts.series import Series, SeriesView
from forge_tui.present import (
    cleanup,
    curves,
    disk,
    events,
    figures,
    form,
    machine,
    sessions,
    status,
    welcome,
)
from forge_tui.screens.help import help_lines
from forge_tui.state import Context, ListQuery, Page, Progress, Snapshot, elapsed, progress, starting
from forge_tui.widgets.ink import INKS
from forge_tui.widgets.keybar import key_line
from tests.ui.homes import HOSTILE
from tests.ui.seed import NOW, PRESETS, REPORTS
from tests.ui.test_text import harmless

words = st.sampled_from(HOSTILE) | st.text(max_size=80)
numbers = st.floats() | st.floats(0, 1e13)
states = st.sampled_from(State)
PHASES = ("pretrain", "forging")


def session(**fields: Any) -> SessionRow:
    """A running session with some fields changed."""
    base: dict[str, Any] = {
        "id": "01J", "name": "swift-otter-12", "state": State.RUNNING, "preset": "tiny",
        "created_at": NOW - 900, "updated_at": NOW - 9, "ended_at": None, "phase": "pretrain", "error": None,
        "note": "", "pinned": False, "lease": "token", "owner": "pid 4121 on gpu-box",
    }  # fmt: skip
    return SessionRow(**base | fields)


def phase_run(phase: str, **fields: Any) -> PhaseRunRow:
    """A running phase with some fields changed."""
    base: dict[str, Any] = {
        "id": 1, "session_id": "01J", "phase": phase, "position": 0, "state": State.RUNNING,
        "total_steps": 500, "step": 300, "started_at": NOW - 842, "ended_at": None, "report": None,
    }  # fmt: skip
    return PhaseRunRow(**base | fields)


def beat(**fields: Any) -> Heartbeat:
    """A fresh heartbeat with some fields changed."""
    base: dict[str, Any] = {
        "at": NOW - 1, "phase": "pretrain", "step": 310, "total_steps": 500, "steps_per_second": 4.1,
        "tokens_per_second": 8412.0, "eta_seconds": 46.0, "status": "", "coalesced": 0,
    }  # fmt: skip
    return Heartbeat(**base | fields)


def snapshot(**fields: Any) -> Snapshot:
    """A running session with some fields changed."""
    runs = (phase_run("pretrain"), phase_run("forging", state=State.CREATED, started_at=None, step=0))
    base = Snapshot(at=NOW, session=session(), phases=runs, beat=beat(), phase="pretrain")
    return replace(base, **fields)


def event(message: str, **fields: Any) -> EventRow:
    """An event with some fields changed."""
    base: dict[str, Any] = {
        "id": 1, "session_id": "01J", "at": NOW, "phase": "pretrain", "step": 3, "level": "info", "kind": "x",
    }  # fmt: skip
    return EventRow(**base | fields, message=message)


def command(kind: str) -> CommandRow:
    """A command that waits."""
    return CommandRow(
        id=1, session_id="01J", lease="token", kind=kind, args={}, requested_by="me", requested_at=NOW,
        state="requested", answered_at=None, answer=None,
    )  # fmt: skip


def view(*values: float) -> SeriesView:
    """A series of one value a step."""
    import numpy as np

    series = Series()
    series.extend_arrays(np.arange(1, len(values) + 1), np.array(values, float))
    return series.view()


@st.composite
def reports(draw: st.DrawFn) -> dict[str, Any]:
    """A report such as a phase might leave, or something else entirely."""
    row = st.fixed_dictionaries(
        {},
        optional={
            "label": words, "value": numbers | st.none() | words | st.booleans(), "unit": words | st.none(),
            "note": words,
        },
    )  # fmt: skip
    rows = st.lists(row | words, max_size=4) | words | st.none()
    return draw(
        st.fixed_dictionaries(
            {},
            optional={"title": words, "rows": rows, "seconds": numbers | words, "peak_memory_bytes": numbers},
        )
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Anything that a registry may hold."""
    state, steps = draw(states), st.integers(0, 10**9)
    runs = tuple(
        phase_run(
            phase, state=draw(states), total_steps=draw(steps), step=draw(steps),
            report=draw(st.none() | reports()), started_at=draw(st.none() | st.just(NOW - 900)),
        )
        for phase in draw(st.lists(st.sampled_from(PHASES) | words, max_size=5))
    )  # fmt: skip
    phase = draw(st.sampled_from([run.phase for run in runs]) if runs else st.none())
    names = st.sampled_from(["loss", "val", "lr", "zeros", "tokens_per_second", "train_bpb"]) | words
    system = st.sampled_from(
        ["rss_bytes", "ram_used_bytes", "ram_total_bytes", "cpu_percent", "gpu_used_bytes", "gpu_total_bytes",
         "gpu_process_bytes", "gpu_percent", "budget_bytes", "torch_allocated_bytes", "torch_peak_bytes"]
    )  # fmt: skip
    row = session(
        state=state, name=draw(words), note=draw(words), preset=draw(words), error=draw(st.none() | words),
        owner=draw(st.none() | words), lease=draw(st.none() | st.just("token")), phase=phase,
    )  # fmt: skip
    made = [
        event(draw(words), level=level, step=draw(st.none() | st.integers(0, 10**9)))
        for level in draw(st.lists(st.sampled_from(["info", "warning", "error"]), max_size=4))
    ]
    return Snapshot(
        at=NOW,
        session=row,
        phases=runs,
        phase=phase,
        beat=beat(phase=phase or "x", step=draw(st.integers(0, 10**12)), status=draw(words | st.just("")),
                  eta_seconds=draw(st.none() | numbers), tokens_per_second=draw(numbers),
                  at=NOW - draw(st.floats(0, 1e6))) if draw(st.booleans()) else None,
        events=tuple(made),
        commands=tuple(command(kind) for kind in draw(st.lists(words, max_size=2))),
        latest=draw(st.dictionaries(names, numbers, max_size=8)),
        system=draw(st.dictionaries(system, numbers, max_size=8)),
        hosted=draw(st.booleans()),
        problem=draw(st.none() | words),
    )  # fmt: skip


def everything(shown: Snapshot, width: int, height: int) -> Iterable[tuple[str, list[Text]]]:
    """All lines that are made of a snapshot."""
    yield "header", [status.header(shown, width)]
    yield "pipeline", status.pipeline(shown, width)
    yield "legend", [curves.legend(shown, width, log=log) for log in (False, True)]
    yield "numbers", figures.numbers(shown, width)
    yield "report", figures.report_lines(figures.reports(shown), width)
    yield "events", events.events(shown, width)
    yield "memory", machine.memory(shown, width, height)
    yield "welcome", welcome.lines(replace(shown, session=None), width, height)
    assert shown.session is not None
    yield "row", [sessions.row_line(shown.session, width, chosen, NOW) for chosen in (False, True)]
    query = ListQuery(shown.session.name)
    yield "head", [sessions.head(Page((), 0, 10**9, query, shown.problem), width)]
    yield "columns", [sessions.columns(width)]
    yield "empty", [sessions.empty(shown.session.name, width), sessions.empty("", width)]
    yield from of_cleanup(shown.session, width, height)
    yield "cost", form.costs(PRESETS["25m"], 1e7, shown.session.name, width)
    yield "reason", form.reason(shown.session.error, width)


def of_cleanup(row: SessionRow, width: int, height: int) -> Iterable[tuple[str, list[Text]]]:
    """All lines of the cleanup screen, for a session that goes, stays and lies in the trash."""
    words = row.name
    made = [Decision(row, verdict, words, 10**9) for verdict in Verdict]
    plan = Plan(SessionCleanupPolicy(), NOW, tuple(made))
    thrown = TrashRow(session_id=row.id, name=words, state_before=State.FAILED, trashed_at=NOW - 1e6,
                      actor="", reason=words, bytes=10**12, purging=False)  # fmt: skip
    skipped = tuple((decision, words) for decision in made)
    yield "cleanup", [cleanup.head(plan, refused, problem, width)
                      for refused in (False, True) for problem in (None, words)]  # fmt: skip
    yield "verdicts", [cleanup.plan_line(d, width, chosen) for d in made for chosen in (False, True)]
    yield "thrown", [cleanup.trash_line(thrown, width, chosen, NOW) for chosen in (False, True)]
    yield "heads", [cleanup.plan_columns(width), cleanup.trash_columns(width)]
    yield "nothing", [*cleanup.empty_trash(width), *cleanup.no_plan(None, True, width)]
    yield (
        "notes",
        [*cleanup.field_note("keep_tags", words, width), *cleanup.field_note("keep_tags", None, width)],
    )
    done = [
        *cleanup.cleaned(Outcome(tuple(made), skipped)),
        *cleanup.restored(Undone((row,), ((row.id, words),)), {row.id: words}),
        *cleanup.purged(Purged((thrown,), ((thrown, words),) * 9, 10, 10, words)),
    ]
    yield "result", cleanup.result_lines(done, width)
    room = disk.Room(10**9, 10**9, 10**9)
    yield (
        "disk",
        [*disk.lines(disk.Disk(10**12, 10**11), room, width, height), *disk.lines(None, room, width, 2)],
    )


@settings(max_examples=150)
@given(snapshots(), st.integers(20, 140), st.integers(1, 40))
def test_lines_fit_and_are_harmless_whatever_they_show(shown: Snapshot, width: int, height: int) -> None:
    for name, lines in everything(shown, width, height):
        for line in lines:
            assert line.cell_len <= width, name
            assert harmless(line.plain), name
            inks = {span.style for span in line.spans} | {line.style}
            assert inks - {""} <= set(INKS), name


@settings(max_examples=60)
@given(snapshots(), st.integers(20, 120))
def test_charts_of_anything_can_be_made(shown: Snapshot, width: int) -> None:
    from forge_tui.charts.raster import draw

    for chart in (curves.loss_chart(shown), machine.memory_chart(shown)):
        assert draw(chart, width, 12).glyphs.shape == (12, width)


@pytest.mark.parametrize("screen", [actions.DASHBOARD, actions.SESSIONS, actions.NEW, actions.CLEANUP])
@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_keys_and_help_fit(screen: str, width: int) -> None:
    for state in (None, *State):
        context = Context(screen, state, phases=2)
        bar = key_line(screen, context, width)
        assert bar.cell_len <= width
        assert "help" in bar.plain
        assert all(line.cell_len <= width for line in help_lines(screen, context, width))


# --- the header -----------------------------------------------------------------------------------------


def test_the_state_is_seen_however_long_the_name_is() -> None:
    shown = snapshot(session=session(name="y" * 500))
    for width in (60, 80, 120):
        assert "RUNNING" in status.header(shown, width).plain


def test_who_runs_it() -> None:
    assert "pid 4121 on gpu-box" in status.header(snapshot(), 120).plain
    assert "in this program" in status.header(snapshot(hosted=True), 120).plain
    stopped = snapshot(session=session(state=State.STOPPED, ended_at=NOW, lease=None))
    assert "pid 4121" not in status.header(stopped, 120).plain


def test_the_budget_is_in_the_corner() -> None:
    on_gpu = {"gpu_process_bytes": 3.1e9, "gpu_total_bytes": 141e9}
    assert status.header(snapshot(system=on_gpu), 120).plain.endswith("3.10 GB of 141 GB device ")
    budget = snapshot(system={**on_gpu, "budget_bytes": 6e9})
    assert status.header(budget, 120).plain.endswith("3.10 GB of 6.00 GB budget ")
    assert status.header(snapshot(system={"rss_bytes": 6e8}), 120).plain.endswith("no GPU · 600 MB resident ")


def test_in_a_container_torch_says_what_the_driver_cannot() -> None:
    system = {"gpu_total_bytes": 80e9, "gpu_used_bytes": 9e9, "torch_reserved_bytes": 2.9e9}
    assert "2.90 GB of 80.0 GB device" in status.header(snapshot(system=system), 120).plain
    assert any("this run  2.90 GB" in line.plain for line in machine.memory(snapshot(system=system), 60, 20))


# --- progress -------------------------------------------------------------------------------------------


def test_progress_comes_from_the_heartbeat_while_it_lives() -> None:
    assert progress(snapshot()) == Progress(310, 500, 8412.0, 4.1, 46.0, "", State.RUNNING)
    stopped = snapshot(session=session(state=State.STOPPED, lease=None))
    assert progress(stopped) == Progress(300, 500, state=State.RUNNING)
    assert progress(snapshot(phase="forging")) == Progress(0, 500, state=State.CREATED)
    assert progress(snapshot(phase=None)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "8.41 k tok/s · 46 s left"),
        ({"commands": (command("stop"),)}, "stop requested…"),
        ({"beat": beat(status="measuring on held-out files")}, "measuring on held-out files"),
        ({"session": session(state=State.PAUSED)}, "paused, space goes on"),
        ({"session": session(state=State.STOPPED, lease=None)}, "stopped, r goes on"),
        ({"session": session(state=State.INTERRUPTED, lease=None)}, "interrupted, r goes on"),
        ({"session": session(state=State.CREATED, lease=None)}, "not started, r starts it"),
        ({"session": session(state=State.CREATED)}, "starting: loading the tensor library"),
        ({"session": session(state=State.COMPLETED)}, "all phases complete"),
        ({"session": session(state=State.FAILED, error="no disk")}, "✗ no disk"),
        ({"phase": "forging"}, "this phase has not begun"),
        ({"problem": "the session cannot be read"}, "! the session cannot be read"),
        ({"at": NOW + 100}, "no step for 1 m 41 s (usually 0.2 s)"),
    ],
)
def test_the_second_line_says_what_is_the_matter(change: dict[str, Any], said: str) -> None:
    assert said in status.pipeline(snapshot(**change), 120)[1].plain


def test_a_finished_phase_says_so_while_another_runs() -> None:
    runs = (phase_run("pretrain", state=State.COMPLETED, step=500), phase_run("forging"))
    line = status.pipeline(snapshot(phases=runs, beat=beat(phase="forging")), 120)
    assert "this phase is complete" in line[1].plain
    assert "2 Forging ▶ 62%" in line[0].plain


def test_no_stale_speed_beside_what_goes_on_outside_the_steps() -> None:
    line = status.pipeline(snapshot(beat=beat(status="measuring")), 120)[1].plain
    assert "tok/s" not in line
    assert "left" not in line


@given(st.floats(0, 1), st.integers(1, 100))
def test_a_bar_is_full_only_at_the_end(share: float, width: int) -> None:
    drawn = "".join(part[0] for part in status.bar(share, width))
    assert len(drawn) == width
    assert ("░" not in drawn) is (share >= 1)


def test_time_stands_still_when_the_session_has_ended() -> None:
    assert elapsed(snapshot()) == 842
    assert elapsed(snapshot(session=session(ended_at=NOW - 42))) == 800
    assert elapsed(snapshot(phases=())) == 0


def test_silence_is_told_only_of_a_run_that_should_step() -> None:
    def said(**changes: Any) -> str:
        return "\n".join(line.plain for line in status.pipeline(snapshot(**changes), 120))

    assert "no step" not in said()
    assert "no step for 3 m 01 s (usually 0.2 s): hung, suspended or asleep" in said(at=NOW + 180)
    assert "no step" not in said(at=NOW + 180, session=session(state=State.PAUSED))
    assert "no step" not in said(at=NOW + 180, beat=None)


def test_starting_is_a_lease_without_a_run() -> None:
    assert starting(session(state=State.CREATED))
    assert not starting(session(state=State.CREATED, lease=None))
    assert not starting(session())
    assert not starting(None)


# --- numbers, reports, events ---------------------------------------------------------------------------


def test_nan_is_shown_and_stands_out() -> None:
    shown = snapshot(latest={"loss": math.nan, "val": 1.5})
    for line in (figures.numbers(shown, 24)[0], curves.legend(shown, 60)):
        assert "NaN" in line.plain
        assert "bad" in {span.style for span in line.spans}


def test_unknown_metrics_come_after_the_known_ones() -> None:
    lines = figures.numbers(snapshot(latest={"zzz": 1.0, "lr": 3e-3, "loss": 2.0}), 24)
    assert [line.plain.split()[0] for line in lines] == ["train", "lr", "zzz"]


def test_units_are_never_mixed_on_an_axis() -> None:
    series = {"loss": view(7.0, 3.0), "val": view(2.6)}
    chart = curves.loss_chart(snapshot(series=series))
    assert [trace.right for trace in chart.traces] == [False, False, True]
    bits = curves.loss_chart(snapshot(series={"train_bpb": view(2.0), "val": view(2.6)}))
    assert not any(trace.right for trace in bits.traces)
    assert "nats/token" in curves.legend(snapshot(series=series, latest={"loss": 3.0}), 80).plain


def branched(**fields: Any) -> Snapshot:
    """Cognate in its second branch: four steps of the base, three of reasoning, two of memory."""
    import numpy as np

    def series(start: int, *values: float) -> SeriesView:
        made = Series()
        made.extend_arrays(np.arange(start, start + len(values)), np.array(values, float))
        return made.view()

    found = {
        "loss": series(1, 9, 8, 7, 6, 5, 4, 3, 5, 4),
        "val": series(4, 2.5, 2.4, 2.3, 2.2),
        "loss_reasoning": series(5, 5, 4, 3),
        "loss_memory": series(5, 5, 4),
    }
    return snapshot(series=found, **fields)


def test_the_branches_lie_over_each_other_from_where_the_base_ended() -> None:
    chart = curves.loss_chart(branched())
    shown = [(trace.layer, trace.view.step.tolist(), trace.view.value.tolist()) for trace in chart.traces]
    assert shown == [
        (Layer.RAW, [1, 2, 3, 4], [9, 8, 7, 6]),
        (Layer.LINE, [1, 2, 3, 4], [9, 8, 7, 6]),
        (Layer.SECOND, [5, 6, 7], [5, 4, 3]),
        (Layer.THIRD, [5, 6], [5, 4]),
        (Layer.POINT, [4], [2.5]),
    ]
    assert [trace.right for trace in chart.traces] == [False] * 4 + [True]
    assert chart.end >= 7
    for ascii_only in (False, True):
        layers = set(draw(chart, 60, 12, ascii_only=ascii_only).layers.flatten().tolist())
        assert {Layer.SECOND, Layer.THIRD, Layer.POINT} <= layers
    # Nothing is cut where there are no branches.
    assert curves.loss_chart(snapshot(series={"loss": view(3.0, 2.0)})).traces[0].view.step.tolist() == [1, 2]


def test_the_legend_has_the_branches_that_there_are_with_their_colours() -> None:
    shown = branched(latest={"loss": 4.0, "loss_reasoning": 3.0, "loss_memory": 4.0})
    legend = curves.legend(shown, 90)
    assert legend.plain.split() == [
        "━",
        "base",
        "━",
        "reasoning",
        "3.000",
        "━",
        "memory",
        "4.000",
        "nats/token",
    ]
    assert {"train", "second", "third"} <= {span.style for span in legend.spans}
    narrow = curves.legend(branched(latest=dict.fromkeys(curves.BRANCH_LOSSES, 4.25)), 48)
    assert narrow.plain.count("4.250") == 3


def test_halting_is_a_histogram_below_the_numbers() -> None:
    latest = {"loss": 4.0, "loss_memory": 4.0, "gate": 0.25, "stops": 1.75, "stop_1": 0.25, "stop_2": 0.75}
    lines = [line.plain for line in figures.numbers(snapshot(latest=latest), 46)]
    assert "gate  25" in lines[0] + lines[1]
    assert "stops 1.750 steps" in lines[0] + lines[1]
    first, second = lines[-2:]
    assert first.split()[:2] == ["stop", "1"]
    assert (first.count("█"), second.count("█")) == (6, 18)
    assert (first.split()[-2:], second.split()[-2:]) == (["25", "%"], ["75", "%"])
    assert not any("loss_memory" in line for line in lines)
    assert all(len(line) <= 46 for line in lines)
    broken = figures.numbers(snapshot(latest={"stop_1": math.nan}), 46)
    assert "nan" in broken[-1].plain


def test_marks_belong_to_the_phase_that_is_looked_at() -> None:
    happened = (
        event("checkpoint", kind="checkpoint", step=100),
        event("checkpoint", kind="checkpoint", step=50, phase="forging"),
        event("no memory", kind="oom", step=180, level="warning"),
        event("begins", kind="phase", step=None),
    )
    marks = curves.loss_chart(snapshot(events=happened)).marks
    assert [(mark.x, mark.alarm) for mark in marks] == [(100, False), (180, True)]


@pytest.mark.parametrize("kind", ["oom", "skipped", "diverged", "disk", "error"])
def test_all_trouble_stands_on_the_chart(kind: str) -> None:
    happened = (event("what went wrong", kind=kind, step=180, level="warning"),)
    (mark,) = curves.loss_chart(snapshot(events=happened)).marks
    assert (mark.x, mark.alarm) == (180, True)


def test_a_report_shows_every_figure() -> None:
    runs = [phase_run(name, report=report) for name, report in REPORTS.items()]
    text = "\n".join(line.plain for line in figures.report_lines(runs, 70))
    for said in (
        "1.842 bits/byte",
        "+ the same steps",
        "3.262",
        "1.934",
        "91.3 %",
        "80 % asked for",
        "1 m 15 s",
    ):
        assert said in text
    assert text.index("Forging") < text.index("Pre-training")


def test_reports_of_a_finished_session_are_all_shown_else_that_of_the_phase() -> None:
    runs = tuple(phase_run(name, state=State.COMPLETED, report=report) for name, report in REPORTS.items())
    assert len(figures.reports(snapshot(phases=runs, session=session(state=State.COMPLETED)))) == 3
    assert [run.phase for run in figures.reports(snapshot(phases=runs))] == ["pretrain"]
    assert figures.reports(snapshot()) == []


def test_an_error_is_wrapped_and_says_where_it_is_cut() -> None:
    long = " ".join(["word"] * 200)
    for level, most in (("error", 6), ("warning", 3), ("info", 1)):
        lines = events.event_lines(event(long, level=level), 50)
        assert len(lines) == most
        assert lines[-1].plain.endswith("…")
    short = events.event_lines(event("no memory for micro-batch 16", level="warning", step=None), 50)
    assert [line.plain for line in short] == ["06:00 ! no memory for micro-batch 16"]


def test_seconds_are_shown_where_there_is_room() -> None:
    assert events.event_lines(event("x step"), 60)[0].plain.startswith("06:00:00 x")
    assert events.event_lines(event("x step"), 59)[0].plain.startswith("06:00 x")


def test_no_gpu_is_said_plainly() -> None:
    lines = machine.memory(snapshot(system={"rss_bytes": 6e8, "cpu_percent": 87.0}), 32, 20)
    assert lines[0].plain == "no NVIDIA GPU here · CPU 87%"


def test_the_memory_window_rests_most_of_the_time() -> None:
    def chart(second: int) -> tuple[float, float]:
        import numpy as np

        series = Series()
        series.extend_arrays(np.array([second * 1000]), np.array([1e9]))
        made = machine.memory_chart(snapshot(system_series={"rss_bytes": series.view()}))
        return made.start, made.end

    windows = {chart(second) for second in range(1000, 1060)}
    assert len(windows) <= 7
    assert all(end - start == 600_000 for start, end in windows)


Build = Callable[[int], list[Text]]


def test_an_empty_home_invites() -> None:
    text = "\n".join(line.plain for line in welcome.lines(Snapshot(), 80, 20))
    assert "There is no session here yet." in text
    assert "making a session from tiny…" in welcome.lines(Snapshot(making="tiny"), 80, 20)[-1].plain
    assert "not readable" in welcome.lines(Snapshot(problem="not readable"), 80, 20)[-1].plain
