"""Help: every key of the screen below, from the action table, with reasons for what cannot be done now."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical

from forge_tui import actions
from forge_tui.actions import HELP
from forge_tui.screens.base import Dialog, bindings
from forge_tui.state import Context
from forge_tui.styles import sheet
from forge_tui.text import compose, pad, safe, wrap
from forge_tui.widgets.textpane import TextPane


class HelpDialog(Dialog[None]):
    """Every key of one screen, made from the action table."""

    NAME = HELP
    CSS_PATH = sheet("dialogs")
    BINDINGS = bindings(HELP)

    def __init__(self, screen: str, context: Context) -> None:
        super().__init__()
        self._of_screen = screen
        self._about = context

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with Vertical(id="help", classes="box") as box:
            box.border_title = safe(f"keys · {actions.SCREEN_TITLES[self._of_screen]}")
            yield TextPane(id="keys", scrolls=True)

    def on_mount(self) -> None:
        """Write the text."""
        self.query_one(TextPane).show_by(lambda width, _: help_lines(self._of_screen, self._about, width))

    def on_resize(self) -> None:
        """Be as high as the text; a longer one scrolls."""
        self.call_after_refresh(self._fit)

    def _fit(self) -> None:
        self.query_one("#help").styles.height = min(
            len(self.query_one(TextPane).lines) + 2, self.size.height - 2
        )
        self.call_after_refresh(self._tell_more)

    def _tell_more(self) -> None:
        below = self.query_one(TextPane).below
        more = f"↓ {below} more · j k scroll · " if below else ""
        self.query_one("#help").border_subtitle = safe(f"{more}esc closes")

    def _scroll(self, amount: int) -> None:
        self.query_one(TextPane).scroll_text(amount)
        self._tell_more()

    def do_help_close(self, _key: str) -> None:
        """Close."""
        self.dismiss(None)

    def do_list_down(self, _key: str) -> None:
        """Scroll down."""
        self._scroll(1)

    def do_list_up(self, _key: str) -> None:
        """Scroll up."""
        self._scroll(-1)

    def do_list_top(self, _key: str) -> None:
        """Scroll to the top."""
        self._scroll(-1_000_000)

    def do_list_bottom(self, _key: str) -> None:
        """Scroll to the end."""
        self._scroll(1_000_000)

    def do_list_half_down(self, _key: str) -> None:
        """Scroll half a page down."""
        self._scroll(self.size.height // 4)

    def do_list_half_up(self, _key: str) -> None:
        """Scroll half a page up."""
        self._scroll(-(self.size.height // 4))


def help_lines(screen: str, context: Context, width: int) -> list[Text]:
    """Keys, what they do, and why some do nothing now."""
    lines: list[Text] = []
    for action in actions.on_screen(screen):
        keys = pad(compose((actions.display_keys(action), "key")), 17)
        reason = action.why_not(context)
        lines += _wrap(keys, action.help, "value" if reason is None else "off", width)
        if reason is not None:
            lines += _wrap(pad(safe(""), 17), f"not now: {reason}", "warn", width)
    return lines


def _wrap(left: Text, text: str, style: str, width: int) -> list[Text]:
    room = max(10, width - left.cell_len)
    wrapped = [safe(line, style=style) for line in wrap(text, room)]
    blank = pad(safe(""), left.cell_len)
    return [(left if i == 0 else blank).copy().append_text(line) for i, line in enumerate(wrapped)]
