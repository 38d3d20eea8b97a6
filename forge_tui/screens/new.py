"""The form for a new session: every field is checked as it is typed, and the cost stands beside it.

What takes time to check (files, earlier sessions) runs in a worker and comes back as a numbered message;
an answer to an older question is dropped.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from forge.config import PHASE_NAMES, SEARCHED_PHASES, PipelineConfig, preset_names
from forge_tui import draft
from forge_tui.actions import NEW
from forge_tui.messages import DraftChecked
from forge_tui.present import form, words
from forge_tui.screens.base import HEIGHTS, WIDTHS, MainScreen, bindings
from forge_tui.state import Context
from forge_tui.styles import sheet
from forge_tui.text import clean, compose, safe
from forge_tui.widgets.choice import Choice
from forge_tui.widgets.keybar import KeyBar
from forge_tui.widgets.textpane import TextPane

FIRST_PRESET = "tiny"
TRAINED = tuple(name for name in PHASE_NAMES if name not in SEARCHED_PHASES)
FIELDS = ("preset", "name", "corpus", "seed", *TRAINED, "vram", "host")
HOSTS = ("thread", "process")
LABELS = {"cognate": "base steps", "vram": "GPU memory, GB", "host": "runs in a"}
HINTS = {"name": "chosen by Forge when empty", "vram": "no limit when empty"}


class NewSessionScreen(MainScreen):
    """Makes and starts a session."""

    NAME = NEW
    CSS_PATH = sheet("new")
    BINDINGS = bindings(NEW)
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS

    def __init__(self) -> None:
        super().__init__()
        presets = preset_names()
        self._draft = draft.from_preset(FIRST_PRESET if FIRST_PRESET in presets else presets[0])
        self._checked = draft.check(self._draft)
        self._corpus_problem: str | None = None
        self._seconds: tuple[float, str] | None = None
        self._asked = 0

    def compose(self) -> ComposeResult:
        """Fields on the left or above, costs on the right or below."""
        yield TextPane(id="title")
        with Horizontal(id="form"):
            with Vertical(id="fields"):
                yield from self._field("preset", Choice(preset_names(), self._draft.preset, id="preset"))
                texts = self._texts()
                for name, text in texts.items():
                    yield from self._field(name, _input(text, name))
                yield from self._field("host", Choice(HOSTS, self._draft.host, id="host"))
            with Vertical(id="costs"):
                yield TextPane(id="figures")
        yield KeyBar()

    def _field(self, name: str, widget: Input | Choice) -> ComposeResult:
        with Horizontal(id=f"{name}-field", classes="field"):
            yield TextPane(id=f"{name}-label", classes="label")
            yield widget
        yield TextPane(id=f"{name}-reason", classes="reason")

    def on_mount(self) -> None:
        """Begin with the preset."""
        self.query_one("#costs").border_title = "what you get"
        self.set_focus(self.query_one("#preset", Choice))
        self._check()

    def context(self) -> Context:
        """The form decides whether it can be started."""
        return replace(super().context(), valid=self._config is not None)

    @property
    def _config(self) -> PipelineConfig | None:
        return self._checked.config if self._corpus_problem is None else None

    def _texts(self) -> dict[str, str]:
        now = self._draft
        steps = {name: now.steps.get(name, "") for name in TRAINED}
        return {"name": now.name, "corpus": now.corpus, "seed": now.seed, **steps, "vram": now.vram}

    @on(Choice.Changed)
    def _chosen(self, message: Choice.Changed) -> None:
        if message.choice == "host":
            self._draft = replace(self._draft, host=message.value)
            self._check()
        else:
            self._take_preset(message)

    def _take_preset(self, message: Choice.Changed) -> None:
        fresh = replace(draft.from_preset(message.value), name=self._draft.name, corpus=self._draft.corpus)
        self._draft = fresh
        for name, text in self._texts().items():
            field = self.query_one(f"#{name}", Input)
            if field.value != clean(text):
                field.value = clean(text)
        self.query_one("#host", Choice).take(fresh.host)
        self._check()

    @on(Input.Changed)
    def _typed(self, message: Input.Changed) -> None:
        name, text = message.input.id or "", message.value
        before = self._draft
        change: dict[str, Any] = {name: text}
        if name in TRAINED:
            # What is emptied because the new preset has no such phase was not typed.
            change = {"steps": {**before.steps, name: text}} if name in before.steps else {}
        self._draft = replace(before, **change)
        if self._draft != before:
            self._check()

    def _check(self) -> None:
        self._checked = draft.check(self._draft)
        self._asked += 1
        config = self._checked.config
        self.forge.check_draft(self._asked, self._draft.corpus, config, self)
        self._draw()

    @on(DraftChecked)
    def _draft_checked(self, message: DraftChecked) -> None:
        if message.number != self._asked:
            return
        self._corpus_problem = message.corpus_problem
        known = message.seconds is not None and message.measured_in is not None
        self._seconds = (message.seconds or 0.0, message.measured_in or "") if known else None
        self._draw()

    def _draw(self) -> None:
        self._show("title", [compose((" new session", "key"), (" · ", "faint"), (self._where(), "label"))])
        for name in FIELDS:
            if name in TRAINED:
                self.query_one(f"#{name}-field").display = name in self._draft.steps
                self.query_one(f"#{name}-reason").display = name in self._draft.steps
            self._show(f"{name}-label", [safe(_label(name), style="label")])
            reason = self._checked.problems.get(name)
            if name == "corpus" and reason is None:
                reason = self._corpus_problem
            self.query_one(f"#{name}-reason", TextPane).show_by(partial(_reason, reason))
        config, (seconds, where) = self._config, self._seconds or (None, None)
        self.query_one("#figures", TextPane).show_by(
            lambda width, _: form.costs(config, seconds, where, width)
        )
        self.refresh_keys()

    def _where(self) -> str:
        if self._draft.host == "process":
            return "starts in a process of its own, which outlives this program"
        if self.forge.hosted is not None:
            return "starts in a process of its own, because another runs in this program"
        return "starts in this program"

    def _show(self, name: str, lines: list[Text]) -> None:
        self.query_one(f"#{name}", TextPane).show(lines)

    # --- actions -----------------------------------------------------------------------------------

    def do_form_start(self, _key: str) -> None:
        """Make the session and run it."""
        config = self._config
        if config is not None:
            self.forge.start(config, self._draft.name.strip() or None)

    def do_form_next(self, _key: str) -> None:
        """The next field."""
        self.focus_next()

    def do_form_previous(self, _key: str) -> None:
        """The field before."""
        self.focus_previous()

    def do_form_right(self, _key: str) -> None:
        """The next choice."""
        self._step(1)

    def do_form_left(self, _key: str) -> None:
        """The choice before."""
        self._step(-1)

    def _step(self, amount: int) -> None:
        if isinstance(self.focused, Choice):
            self.focused.step(amount)

    def do_go_back(self, _key: str) -> None:
        """Leave."""
        self.forge.go_dashboard()


def _reason(reason: str | None, width: int, _height: int) -> list[Text]:
    return form.reason(reason, width)


def _label(name: str) -> str:
    if name in LABELS:
        return LABELS[name]
    return f"{words.phase_title(name).lower()} steps" if name in TRAINED else name


def _input(text: str, name: str) -> Input:
    # A blinking cursor would send something over the link twice a second.
    field = Input(clean(text), id=name, compact=True, placeholder=HINTS.get(name, ""), select_on_focus=False)
    field.cursor_blink = False
    return field
