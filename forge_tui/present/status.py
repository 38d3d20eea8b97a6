"""The header line and the pipeline pane: what runs, how far it is, and what is the matter."""

from __future__ import annotations

from rich.text import Text

from forge.config import SEARCHED_PHASES
from forge.registry.hanging import silence_of
from forge.registry.lifecycle import LIVE, RESUMABLE, State
from forge.registry.rows import SessionRow
from forge_tui import units
from forge_tui.present import words
from forge_tui.present.machine import device_bytes
from forge_tui.state import Progress, Snapshot, elapsed, progress, starting
from forge_tui.text import Part, compose, cut, join_ends, safe

_DOT: Part = (" · ", "faint")
_WIDE = 110


def header(snapshot: Snapshot, width: int) -> Text:
    """Name, state, owner and running time; memory on the right where there is room."""
    session = snapshot.session
    if session is None:
        what = "starting" if snapshot.making else "no session yet"
        return compose((" forge", "key"), _DOT, (what, "label"), width=width)
    left = _facts(snapshot, session, width, owner=True)
    if left.cell_len > width:
        left = _facts(snapshot, session, width, owner=False)
    right = _budget(snapshot)
    if right is None or left.cell_len + right.cell_len + 2 > width:
        cut(left, width)
        return left
    return join_ends(left, right, width)


def _facts(snapshot: Snapshot, session: SessionRow, width: int, *, owner: bool) -> Text:
    # A name may be long; the state must be seen whatever it is.
    name = compose((session.name, "strong"), width=max(16, width // 2 - 10))
    parts: list[Part] = [(" forge", "key"), _DOT, name, _DOT]
    if width >= _WIDE:
        parts += [compose((session.preset, "label"), width=16), _DOT]
    if starting(session):
        parts += [("STARTING", "accent")]
    else:
        parts += [(f"{words.SIGNS[session.state]} {session.state.upper()}", words.INKS[session.state])]
    if owner and (session.state in LIVE or starting(session)):
        owned_by = "in this program" if snapshot.hosted else session.owner or "owner unknown"
        parts += [_DOT, (owned_by, "label")]
    passed = elapsed(snapshot)
    if passed:
        parts += [_DOT, (units.stopwatch(passed), "value")]
    return compose(*parts)


def _budget(snapshot: Snapshot) -> Text | None:
    if snapshot.session is None or snapshot.session.state not in LIVE:
        return None
    system = snapshot.system
    used, budget = device_bytes(system), system.get("budget_bytes")
    if used is None:
        resident = system.get("rss_bytes")
        return (
            compose(("no GPU · ", "faint"), (units.size(resident), "value"), (" resident ", "label"))
            if resident
            else None
        )
    total = budget or system.get("gpu_total_bytes")
    if not total:
        return None
    what = " budget " if budget else " device "
    return compose(
        (units.size(used), "value"), (" of ", "label"), (units.size(total), "value"), (what, "label")
    )


def pipeline(snapshot: Snapshot, width: int) -> list[Text]:
    """The phases in their order, and under them the progress of the one that is looked at."""
    if snapshot.session is None:
        return [
            compose(
                ("No session yet. ", "strong"), ("Press ", "label"), ("n", "key"), (" to make one.", "label")
            ),
            compose(("Or start one from the shell: ", "label"), ("forge-tui --start tiny", "value")),
        ]
    return [_phases(snapshot, width), _second_line(snapshot, width)]


def _phases(snapshot: Snapshot, width: int) -> Text:
    line = compose()
    for number, run in enumerate(snapshot.phases, 1):
        looked_at = run.phase == snapshot.phase
        sign = words.SIGNS[run.state] if run.state is not State.CREATED else ""
        share = ""
        if run.state is State.RUNNING and (now := progress(snapshot, run)) is not None:
            share = " " + units.percent(now.step, now.total)
        title = ("chosen" if looked_at else "label") if run.state is not State.CREATED else "faint"
        line.append_text(compose((f"{number} ", "key"), (words.phase_title(run.phase), title)))
        line.append_text(compose((f" {sign}{share}".rstrip(), words.INKS[run.state]), "   "))
    cut(line, width)
    return line


def _second_line(snapshot: Snapshot, width: int) -> Text:
    session, now = snapshot.session, progress(snapshot)
    assert session is not None
    if snapshot.problem is not None:
        return compose(("! ", "bad"), (snapshot.problem, "bad"), width=width)
    if session.state is State.FAILED and session.error:
        return compose(("✗ ", "bad"), (session.error, "bad"), width=width)
    quiet = silence_of(session, snapshot.beat, snapshot.at)
    if quiet is not None:
        return compose(("! ", "warn"), (quiet, "warn"), width=width)
    if now is None:
        return safe("nothing planned", width, "label")
    text = _progress_text(snapshot, now)
    room = min(max(10, width // 2), width - text.cell_len - 2)
    if room < 8:
        cut(text, width)
        return text
    return compose(*bar(now.share, room), "  ", text)


def bar(share: float, width: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """A bar of `width` cells; full only when all is done."""
    filled = int(share * width)
    return ("█" * filled, "bar"), ("░" * (width - filled), "track")


def _progress_text(snapshot: Snapshot, now: Progress) -> Text:
    session = snapshot.session
    assert session is not None
    parts: list[Part] = [
        ("candidate " if snapshot.phase in SEARCHED_PHASES else "step ", "label"),
        (f"{units.steps(now.step)} of {units.steps(now.total)}", "value"),
    ]
    asked = ", ".join(f"{command.kind} requested" for command in snapshot.commands)
    if asked:
        parts += [_DOT, (asked + "…", "warn")]
    elif starting(session):
        parts += [_DOT, ("starting: loading the tensor library", "accent")]
    elif now.status and session.state is State.RUNNING:
        parts += [_DOT, (now.status, "accent")]
    elif session.state is State.PAUSED:
        parts += [_DOT, ("paused, space goes on", "warn")]
    elif session.state is State.CREATED:
        parts += [_DOT, ("not started, r starts it", "label")]
    elif session.state in RESUMABLE:
        parts += [_DOT, (f"{session.state}, r goes on", "label")]
    elif session.state is State.COMPLETED:
        parts += [_DOT, ("all phases complete", "good")]
    elif now.state is State.COMPLETED:
        parts += [_DOT, ("this phase is complete", "good")]
    elif now.state is State.CREATED:
        parts += [_DOT, ("this phase has not begun", "label")]
    # What is said of the speed is about steps: while something else goes on it would be stale.
    if session.state is State.RUNNING and not now.status:
        if now.tokens_per_second > 0:
            parts += [_DOT, (f"{units.count(now.tokens_per_second)} tok/s", "value")]
        if now.eta_seconds is not None:
            parts += [_DOT, (f"{units.duration(now.eta_seconds)} left", "value")]
    return compose(*parts)
