"""What a person calls a session: its name, its tags and a note, in one small form.

Nothing is written before the form is left with enter; a name that is taken gets a number behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from forge_tui.actions import LABELS
from forge_tui.draft import name_problem
from forge_tui.limits import tags_in
from forge_tui.screens.base import Dialog, bindings
from forge_tui.styles import sheet
from forge_tui.text import clean, compose, safe
from forge_tui.widgets.textpane import TextPane

FIELDS = ("name", "tags", "note")
_HINTS = {"name": "", "tags": "none; with commas between", "note": "none"}


@dataclass(frozen=True)
class Labels:
    """Name, tags and note of a session."""

    name: str
    tags: tuple[str, ...]
    note: str


class LabelsDialog(Dialog[Labels | None]):
    """Changes the labels of one session; the result is none where nothing is to be changed."""

    NAME = LABELS
    CSS_PATH = sheet("dialogs")
    BINDINGS = bindings(LABELS)

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self._before = labels
        self._texts = {"name": labels.name, "tags": ", ".join(labels.tags), "note": labels.note}

    def compose(self) -> ComposeResult:
        """Three fields, a line for what is wrong, and the keys."""
        with Vertical(id="labels", classes="box") as box:
            box.border_title = "name, tags and note"
            for name in FIELDS:
                with Horizontal(classes="field"):
                    yield TextPane(id=f"{name}-label", classes="label")
                    yield _input(name, self._texts[name])
            yield TextPane(id="answer")

    def on_mount(self) -> None:
        """Write the labels, and begin with the tags: a name is seldom changed."""
        for name in FIELDS:
            self.query_one(f"#{name}-label", TextPane).show([safe(name, style="label")])
        self._draw()
        self.set_focus(self._field("tags"))

    def _field(self, name: str) -> Input:
        return self.query_one(f"#{name}", Input)

    @property
    def _problem(self) -> str | None:
        name = self._field("name").value.strip()
        return name_problem(name) if name else "a session needs one"

    @on(Input.Changed)
    def _draw(self) -> None:
        problem = self._problem
        if problem is not None:
            line = compose(("! ", "bad"), (f"name: {problem}", "bad"))
        else:
            line = compose(("enter", "key"), (" save    ", "label"), ("esc", "key"), (" cancel", "label"))
        self.query_one("#answer", TextPane).show([safe(""), line])

    @on(Input.Submitted)
    def _submit(self) -> None:
        self.do_labels_save("enter")

    def do_labels_save(self, _key: str) -> None:
        """Give back what stands in the fields, unless nothing was changed."""
        if self._problem is not None:
            return
        name, tags, note = (self._value(each) for each in FIELDS)
        after = Labels(name, tags_in(tags), note)
        self.dismiss(None if after == self._before else after)

    def _value(self, name: str) -> str:
        # A field shows harmless text; what was not touched stays as it was.
        typed = self._field(name).value
        return self._texts[name] if typed == clean(self._texts[name]) else typed.strip()

    def do_labels_cancel(self, _key: str) -> None:
        """Leave everything as it is."""
        self.dismiss(None)

    def do_labels_next(self, _key: str) -> None:
        """The next field."""
        self.focus_next()

    def do_labels_previous(self, _key: str) -> None:
        """The field before."""
        self.focus_previous()


def _input(name: str, text: str) -> Input:
    field = Input(clean(text), id=name, compact=True, placeholder=_HINTS[name], select_on_focus=False)
    # A blinking cursor would send something over the link twice a second.
    field.cursor_blink = False
    return field
