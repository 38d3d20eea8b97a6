"""The cleanup screen in words: the plan and its reasons, the trash, questions, and what came of them.

Sizes are those of files; nothing is called freed before the disk has it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from forge.registry.rows import SessionRow, TrashRow
from forge.retention import GRACE_DAYS, Decision, Outcome, Plan, Purged, Undone, Verdict
from forge.retention.policy import DAY
from forge_tui import units
from forge_tui.present import words
from forge_tui.text import Part, compose, cut, pad, safe, wrap

_DOT: Part = (" · ", "faint")
_VERDICT, _STATE, _SIZE, _AGE, _LEFT = 8, 14, 9, 8, 8
_WIDE, _NARROW = 100, 72
_NAMED = 3
FIELDS = {
    "max_sessions_retained": ("newest to keep", "sessions; older ones may go"),
    "max_age_days": ("days at most", "since a session ended"),
    "max_failed_age_days": ("days, if failed", "since a session failed"),
    "max_total_gb": ("GB at most", "all sessions; the oldest go first"),
    "keep_tags": ("tags to keep", "with commas between"),
}
"""Label of every field of the policy, so short that a reason has room beside it, and what it means."""


def field_note(name: str, reason: str | None, width: int) -> list[Text]:
    """Beside a field: why it cannot stay so, or what it means."""
    if reason is not None:
        return [compose(("! ", "bad"), (reason, "bad"), width=width)]
    return [safe(FIELDS[name][1], width, "faint")]


def count(number: int, what: str = "session") -> str:
    """`1 session`, `4 sessions`, `10,000 sessions`."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def head(plan: Plan | None, refused: bool, problem: str | None, width: int) -> Text:
    """What the plan comes to."""
    parts: list[Part] = [(" cleanup", "key"), _DOT]
    if problem is not None:
        return compose(*parts, (problem, "bad"), width=width)
    if refused:
        return compose(*parts, ("no plan: the policy has a problem", "warn"), width=width)
    if plan is None:
        return compose(*parts, ("looking at every session and its folder…", "label"), width=width)
    if not plan.decisions:
        return compose(*parts, ("no session", "label"), width=width)
    go, stay = plan.to_trash, plan.to_keep
    if not go:
        text = f"nothing to clean: {_stay(len(stay))} · {units.size(plan.bytes_to_keep)}"
        return compose(*parts, (text, "label"), width=width)
    parts += [(count(len(go)), "strong"), (" to the trash", "label"), _DOT]
    parts += [(units.size(plan.bytes_to_trash), "strong"), (" to be freed", "label"), _DOT]
    return compose(*parts, (f"{len(stay):,} kept, {units.size(plan.bytes_to_keep)}", "label"), width=width)


def _stay(number: int) -> str:
    return "the only session stays" if number == 1 else f"all {number:,} sessions stay"


# --- the plan --------------------------------------------------------------------------------------------


def plan_columns(width: int) -> Text:
    """The names of the columns of the plan."""
    return _plan_line(width, *(compose((title, "faint")) for title in ("verdict", "name", "state")),
                      size=compose(("size", "faint")), reason=compose(("reason", "faint")))  # fmt: skip


def plan_line(decision: Decision, width: int, chosen: bool) -> Text:
    """One session of the plan: verdict, name, state, size, reason."""
    goes = decision.verdict is Verdict.TRASH
    session = decision.session
    line = _plan_line(
        width,
        compose(("× trash", "warn") if goes else ("  keep", "label")),
        compose((session.name, "value" if goes else "label")),
        compose((f"{words.SIGNS[session.state]} {session.state}", words.INKS[session.state])),
        size=compose((units.size(decision.bytes), "value" if goes else "label")),
        reason=compose((decision.reason, "value" if goes else "faint")),
    )
    return safe(line.plain, style="cursor") if chosen else line


def reason_room(width: int) -> int:
    """How many cells of a reason a row of the plan shows."""
    return width - _VERDICT - _name_width(width) - (_STATE if width >= _WIDE else 0) - _SIZE - 2


def _plan_line(width: int, verdict: Text, name: Text, state: Text, *, size: Text, reason: Text) -> Text:
    cells = [(verdict, _VERDICT), (name, _name_width(width))]
    if width >= _WIDE:
        cells.append((state, _STATE))
    return _row(width, cells, size, reason)


def _row(width: int, cells: Sequence[tuple[Text, int]], size: Text, rest: Text) -> Text:
    line = compose()
    for cell, room in cells:
        cut(cell, room - 1)
        line.append_text(pad(cell, room))
    line.append(" " * max(0, _SIZE - size.cell_len))
    line.append_text(size).append("  ")
    return pad(line.append_text(rest), width)


def _name_width(width: int) -> int:
    return 24 if width >= _WIDE else 18 if width >= _NARROW else 15


def no_plan(plan: Plan | None, refused: bool, width: int) -> list[Text]:
    """What stands where there are no rows."""
    if refused:
        text = "no plan: the policy has a problem, its reason stands beside the field"
    elif plan is None:
        text = "looking at every session and its folder…"
    else:
        text = "there is no session, so there is nothing to clean"
    return [compose((f"  {text}", "label"), width=width)]


# --- the trash -------------------------------------------------------------------------------------------


def trash_title(rows: Sequence[TrashRow]) -> str:
    """How much lies in the trash."""
    if not rows:
        return "trash · empty"
    return f"trash · {count(len(rows))} · {units.size(sum(row.bytes for row in rows))}"


def trash_columns(width: int) -> Text:
    """The names of the columns of the trash, where there is room for them."""
    heads = [compose((title, "faint")) for title in ("name", "was", "trashed", "purged")]
    return _trash_line(width, *heads, size=compose(("size", "faint")), reason=compose(("reason", "faint")))


def trash_line(row: TrashRow, width: int, chosen: bool, now: float, *, auto: bool = True) -> Text:
    """One session in the trash: name, state before, since when, until when, size, reason."""
    wide = width >= _WIDE
    trashed, left = units.since(now - row.trashed_at), purged_in(row, now, auto=auto)
    line = _trash_line(
        width,
        compose((row.name, "value")),
        compose((f"{words.SIGNS[row.state_before]} {row.state_before}", words.INKS[row.state_before])),
        compose((trashed if wide else f"trashed {trashed}", "label")),
        compose((left if wide else f"purged {left}", "bad" if row.purging else "label")),
        size=compose((units.size(row.bytes), "value")),
        reason=compose((row.reason, "faint")),
    )
    return safe(line.plain, style="cursor") if chosen else line


def purged_in(row: TrashRow, now: float, *, auto: bool = True) -> str:
    """When a session in the trash is deleted for good; only by hand where no cleanup runs by itself."""
    left = row.trashed_at + GRACE_DAYS * DAY - now
    if row.purging:
        return "now"
    if not auto:
        return "by hand"
    return "soon" if left <= 0 else f"in {units.ago(left)}"


def _trash_line(
    width: int, name: Text, was: Text, trashed: Text, purged: Text, *, size: Text, reason: Text
) -> Text:
    if width >= _WIDE:
        cells = [(name, _VERDICT + _name_width(width)), (was, _STATE), (trashed, _AGE + 2), (purged, _LEFT)]
        return _row(width, cells, size, reason)
    cells = [(trashed, _AGE + 9), (purged, _LEFT + 8)] if width >= _NARROW else [(purged, _LEFT + 8)]
    room = width - sum(cell[1] for cell in cells) - _SIZE - 2
    return _row(width, [(name, max(10, room)), *cells], size, compose())


def empty_trash(width: int) -> list[Text]:
    """What an empty trash says."""
    text = f"empty; what goes here can be brought back for {GRACE_DAYS:g} days"
    return [compose((f"  {text}", "label"), width=width)]


# --- what came of it -------------------------------------------------------------------------------------


def cleaned(outcome: Outcome) -> list[str]:
    """What a cleanup did."""
    moved = len(outcome.trashed)
    if not moved:
        first = "nothing went into the trash"
    else:
        what = f"{count(moved)} ({units.size(outcome.bytes)})"
        first = f"{what} moved into the trash; u undoes it, E frees the room"
    return [first, *_stayed([(d.session.name, why) for d, why in outcome.skipped], "stays")]


def moved(outcome: Outcome) -> list[str]:
    """What became of the one session that a person wanted gone."""
    lines = [
        f"{d.session.name} ({units.size(d.bytes)}) is in the trash; u brings it back" for d in outcome.trashed
    ]
    return [*lines, *_stayed([(d.session.name, why) for d, why in outcome.skipped], "stays")]


def ask_trash(plan: Plan) -> str:
    """The question before one session goes to the trash."""
    (decision,) = plan.to_trash
    session = decision.session
    return (
        f"Move {session.name} ({session.state}, {units.size(decision.bytes)}) to the trash? "
        f"It can be brought back for {GRACE_DAYS:g} days."
    )


def refuse(plan: Plan) -> str:
    """Why the one session that a person wants gone has to stay."""
    (decision,) = plan.to_keep
    return f"{decision.session.name} stays: {decision.reason}"


def restored(undone: Undone, names: dict[str, str]) -> list[str]:
    """What came back."""
    rows: tuple[SessionRow, ...] = undone.sessions
    lines = []
    if rows:
        shown = ", ".join(row.name for row in rows[:_NAMED])
        more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
        are, them = ("is", "it") if len(rows) == 1 else ("are", "them")
        lines.append(f"{shown}{more} {are} back; cleanup leaves {them} alone for {GRACE_DAYS:g} days")
    skipped = [(names.get(session_id, session_id), why) for session_id, why in undone.skipped]
    return lines + _stayed(skipped, "stays in the trash")


def purged(result: Purged) -> list[str]:
    """What was deleted, and how much room the disk has back."""
    lines = []
    if result.sessions:
        lines.append(
            f"{count(len(result.sessions))} deleted; {units.size(result.bytes)} freed "
            f"({units.size(result.registry_bytes)} of it in the registry)"
        )
    lines += _stayed([(row.name, why) for row, why in result.skipped], "stays in the trash")
    return lines + ([result.notice] if result.notice else [])


def saved(path: Path) -> list[str]:
    """What it means to keep a policy."""
    return ["the policy is kept: every cleanup of this home goes by it from now on", f"it is in {path}"]


def pinned(row: SessionRow) -> str:
    """What a pin means."""
    return (
        f"{row.name} is pinned: no cleanup takes it" if row.pinned else f"{row.name} is not pinned any more"
    )


def _stayed(skipped: Sequence[tuple[str, str]], stays: str) -> list[str]:
    lines = [f"{name} {stays}: {why}" for name, why in skipped[:_NAMED]]
    more = len(skipped) - _NAMED
    return [*lines, f"and {more:,} more"] if more > 0 else lines


def result_lines(sentences: Sequence[str], width: int) -> list[Text]:
    """What came of the last thing that was done here."""
    lines = [part for sentence in sentences for part in wrap(sentence, max(10, width - 2))]
    inks = ["good", *["label"] * len(lines)]
    return [compose(" ", (line, ink), width=width) for line, ink in zip(lines, inks, strict=False)]


# --- questions -------------------------------------------------------------------------------------------


def ask_clean(plan: Plan) -> str:
    """The question before a cleanup."""
    number = len(plan.to_trash)
    return (
        f"Move {count(number)} ({units.size(plan.bytes_to_trash)}) to the trash? "
        f"{'It' if number == 1 else 'They'} can be brought back for {GRACE_DAYS:g} days."
    )


def ask_purge(rows: Sequence[TrashRow]) -> str:
    """The question before a deletion for good."""
    what = rows[0].name if len(rows) == 1 else count(len(rows))
    return f"Delete {what} ({units.size(sum(row.bytes for row in rows))}) for good? There is no way back."
