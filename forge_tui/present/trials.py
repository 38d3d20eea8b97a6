"""The Validate screen's text: the list of proofs, and under it what the one under the cursor found."""

from __future__ import annotations

from rich.text import Text

from forge.validate import Figure
from forge_tui import units
from forge_tui.text import Part, compose, pad, safe, wrap
from forge_tui.trials import DOCTOR, Fact, Stage, Trial, Trials

_SIGNS = {"pass": "✓", "fail": "✗", "cannot-run": "!"}
_INKS = {"pass": "good", "fail": "bad", "cannot-run": "warn"}
_STAGES = {Stage.IDLE: "○", Stage.WAITING: "○", Stage.RUNNING: "▶", Stage.STOPPING: "■", Stage.CANCELLED: "■"}
_FACTS = {"ok": ("ok", "good"), "note": ("note", "warn"), "wrong": ("WRONG", "bad")}
_FIGURES = {"ok": "good", "missed": "bad", "unclear": "warn"}
_NAME, _STATE, _TIME = 14, 14, 10
_WIDEST_MEASURED = 26


def head(trials: Trials, live: bool, width: int) -> Text:
    """How they are run, what they came to, and whether a run is disturbed by them."""
    form = "quick form" if trials.quick else "full form"
    parts: list[Part] = [(" validate", "key"), (" · ", "faint"), (form, "label")]
    results = [entry.result for entry in trials.entries if entry.result is not None]
    for word, ink in {result.word: _INKS[result.verdict] for result in results}.items():
        count = sum(result.word == word for result in results)
        parts += [(" · ", "faint"), (f"{count} {word}", ink)]
    if live:
        parts += [(" · ", "faint"), ("a run is live, and proofs cost it time", "warn")]
    return compose(*parts, width=width)


def row_line(trial: Trial, width: int, chosen: bool, now: float, *, quick: bool) -> Text:
    """One proof: its state, how long it took or takes, and what it claims or is doing."""
    state, ink = _state(trial)
    seconds = _seconds(trial, now, quick=quick)
    what, what_ink = (trial.doing, "value") if trial.doing else (trial.claim, "label")
    line = compose((f" {trial.name}", "value"))
    pad(line, _NAME)
    for text, style, size in ((state, ink, _STATE), (seconds, "label", _TIME)):
        line.append_text(pad(compose((text, style)), size))
    if trial.stage is Stage.RUNNING:
        line.append_text(compose((f"{units.percent(trial.share, 1.0):>4} ", "accent")))
    line.append_text(compose((what, what_ink)))
    pad(line, width)
    return safe(line.plain, style="cursor") if chosen else line


def details(trial: Trial, width: int, *, quick: bool) -> list[Text]:
    """What an entry claims, what its control is, its figures and its verdict."""
    if trial.name == DOCTOR and trial.facts:
        return facts(trial.facts, width)
    words = _wrapped("claim", trial.claim, width)
    if trial.control:
        words += _wrapped("control", trial.control, width)
    result = trial.result
    if result is None:
        about = f"about {units.duration(trial.about(quick=quick))}"
        return [*words, *_wrapped("takes", f"{about}; {_hint(trial)}", width)]
    # The verdict first: a small terminal shows only the beginning.
    verdict = f"{_SIGNS[result.verdict]} {result.word} in {units.duration(result.seconds)}"
    lines = [compose((verdict, _INKS[result.verdict]))]
    lines += [safe(line, style="value") for line in wrap(result.why, width) if result.why]
    if result.figures:
        lines += [safe(""), *_table(result.figures, width)]
    return [*lines, safe(""), *words]


def facts(found: tuple[Fact, ...], width: int) -> list[Text]:
    """The findings of `forge doctor`, what is wrong first."""
    order = {"wrong": 0, "note": 1, "ok": 2}
    lines: list[Text] = []
    for fact in sorted(found, key=lambda fact: order.get(fact.state, 3)):
        word, ink = _FACTS.get(fact.state, (fact.state, "label"))
        left = pad(compose((word, ink)), 6).append_text(pad(compose((fact.what, "label")), 12))
        lines += _hanging(left, fact.found, "value", width)
        if fact.remedy:
            lines += _hanging(pad(safe(""), 18), fact.remedy, "accent", width)
    return lines


def _state(trial: Trial) -> tuple[str, str]:
    if trial.stage is not Stage.ENDED:
        ink = {Stage.RUNNING: "good", Stage.STOPPING: "warn", Stage.CANCELLED: "warn"}.get(
            trial.stage, "label"
        )
        return f"{_STAGES[trial.stage]} {trial.stage}", ink
    if trial.result is not None:
        verdict = trial.result.verdict
        return f"{_SIGNS[verdict]} {trial.result.word}", _INKS[verdict]
    wrong = sum(fact.state == "wrong" for fact in trial.facts)
    return (f"✗ {wrong} wrong", "bad") if wrong else ("✓ nothing wrong"[:_STATE], "good")


def _seconds(trial: Trial, now: float, *, quick: bool) -> str:
    if trial.stage in (Stage.RUNNING, Stage.STOPPING):
        return units.duration(now - trial.since)
    if trial.result is not None:
        return units.duration(trial.result.seconds)
    return f"~{units.duration(trial.about(quick=quick))}"


def _hint(trial: Trial) -> str:
    if trial.stage in (Stage.IDLE, Stage.CANCELLED):
        return "enter runs it, a runs all"
    return "x cancels"


def _table(figures: tuple[Figure, ...], width: int) -> list[Text]:
    """Figure, measured and threshold in columns; controls are marked, what was missed says so."""
    measured = min(_WIDEST_MEASURED, max(len(each.shown) for each in figures) + 2)
    bound = max([len("threshold"), *(len(each.threshold) for each in figures)]) + 2
    name = max(16, width - measured - bound - 8)
    heads = (("figure", "faint", name), ("measured", "faint", measured), ("threshold", "faint", bound))
    lines = [_row(*heads)]
    for each in figures:
        title = f"control: {each.name}" if each.control else each.name
        first, *more = wrap(title, name - 1)
        cells = ((first, "label", name), (each.shown, "value", measured), (each.threshold, "label", bound))
        lines.append(_row(*cells, (each.word, _FIGURES.get(each.word, "label"), 8)))
        lines += [_row((line, "label", name)) for line in more]
    return lines


def _row(*cells: tuple[str, str, int]) -> Text:
    """Cells of text, ink and width."""
    line = compose()
    for text, ink, size in cells:
        line.append_text(pad(pad(compose((text, ink)), size - 1), size))
    return line


def _wrapped(label: str, text: str, width: int) -> list[Text]:
    return _hanging(pad(compose((label, "faint")), 9), text, "value", width)


def _hanging(left: Text, text: str, style: str, width: int) -> list[Text]:
    blank = pad(safe(""), left.cell_len)
    lines = [safe(part, style=style) for part in wrap(text, max(10, width - left.cell_len))]
    return [(left if i == 0 else blank).copy().append_text(line) for i, line in enumerate(lines)]
