"""The cleanup policy as a form: every field is checked as it is typed, and its reason stands beside it."""

from __future__ import annotations

from functools import partial

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import Input

from forge.retention import SessionCleanupPolicy
from forge_tui import limits
from forge_tui.present import cleanup as present
from forge_tui.text import clean, safe
from forge_tui.widgets.textpane import TextPane


class PolicyForm(Vertical):
    """Five fields; `policy` is none while one of them has a problem."""

    class Changed(Message):
        """Something else stands in the fields."""

    class Done(Message):
        """Enter was pressed in a field."""

    def __init__(self, *, id: str, classes: str) -> None:
        super().__init__(id=id, classes=classes)
        self.saved = SessionCleanupPolicy()
        """The policy of the home."""
        self._typed = limits.texts(self.saved)
        self._checked = limits.check(self._typed)

    @property
    def policy(self) -> SessionCleanupPolicy | None:
        """What is typed; none where it cannot be."""
        return self._checked.policy

    @property
    def changed(self) -> bool:
        """Whether it is a policy, and not that of the home."""
        return self.policy not in (None, self.saved)

    def compose(self) -> ComposeResult:
        """A label, a field and a note on each line."""
        for name in limits.FIELDS:
            with Horizontal(classes="field"):
                yield TextPane(id=f"{name}-label", classes="label")
                yield _input(name, self._typed[name])
                yield TextPane(id=f"{name}-note", classes="note")

    def on_mount(self) -> None:
        """Write labels and notes."""
        for name in limits.FIELDS:
            label = safe(present.FIELDS[name][0], style="label")
            self.query_one(f"#{name}-label", TextPane).show([label])
        self._draw()

    def adopt(self, policy: SessionCleanupPolicy) -> None:
        """Take over the policy of the home, unless a person has typed another one."""
        before, self.saved = self.saved, policy
        if policy != before and self.policy == before:
            self._typed = limits.texts(policy)
            self._checked = limits.check(self._typed)
            for name, text in self._typed.items():
                self.query_one(f"#{name}", Input).value = clean(text)
            self._draw()

    def edit(self) -> None:
        """Put the cursor into the first field."""
        self.screen.set_focus(self.query_one(f"#{limits.FIELDS[0]}", Input))

    def step(self, amount: int) -> None:
        """Put the cursor some fields further, round the end."""
        focused = self.screen.focused
        if focused is not None and focused.id in limits.FIELDS:
            place = (limits.FIELDS.index(focused.id) + amount) % len(limits.FIELDS)
            self.screen.set_focus(self.query_one(f"#{limits.FIELDS[place]}", Input))

    @on(Input.Changed)
    def _type(self, message: Input.Changed) -> None:
        message.stop()
        typed = {**self._typed, message.input.id or "": message.value}
        if typed != self._typed:
            self._typed, self._checked = typed, limits.check(typed)
            self._draw()
            self.post_message(self.Changed())

    @on(Input.Submitted)
    def _submit(self, message: Input.Submitted) -> None:
        message.stop()
        self.post_message(self.Done())

    def _draw(self) -> None:
        for name in limits.FIELDS:
            reason = self._checked.problems.get(name)
            self.query_one(f"#{name}-note", TextPane).show_by(partial(_note, name, reason))


def _note(name: str, reason: str | None, width: int, _height: int) -> list[Text]:
    return present.field_note(name, reason, width)


def _input(name: str, text: str) -> Input:
    hint = "none" if name == "keep_tags" else "no limit"
    field = Input(clean(text), id=name, compact=True, placeholder=hint, select_on_focus=False)
    # A blinking cursor would send something over the link twice a second.
    field.cursor_blink = False
    return field
