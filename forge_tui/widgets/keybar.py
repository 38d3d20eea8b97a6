"""The bottom line: what the keys do here, most important first, as many as fit.

An action that cannot be done now is shown faint, not hidden, so that keys keep their places.
"""

from __future__ import annotations

from rich.text import Text

from forge_tui import actions
from forge_tui.state import Context
from forge_tui.text import compose
from forge_tui.widgets.textpane import TextPane


class KeyBar(TextPane):
    """One line of keys."""

    DEFAULT_CSS = "KeyBar { height: 1; width: 1fr; dock: bottom; }"

    def show_actions(self, screen: str, context: Context) -> None:
        """Show the actions of a screen as they stand."""
        self.show_by(lambda width, _: [key_line(screen, context, width)])


def key_line(screen: str, context: Context, width: int) -> Text:
    """The key bar's text."""
    chosen = list(actions.key_bar(screen))
    while chosen:
        line = _line(chosen, screen, context)
        if line.cell_len <= width:
            return line
        # Help and quit stay: with them everything else can be found.
        optional = [action for action in chosen if action.id not in ("go.help", "go.quit")]
        if not optional:
            break
        chosen.remove(optional[-1])
    return compose(("? ", "key"), ("help", "label"))


def _line(chosen: list[actions.Action], screen: str, context: Context) -> Text:
    line = compose()
    for action in sorted(chosen, key=_place):
        off = action.why_not(context) is not None
        title = f" {action.label(context)}"
        line.append("  " if line.plain else " ")
        line.append_text(
            compose(
                (actions.bar_key(action, screen), "off" if off else "key"), (title, "off" if off else "label")
            )
        )
    return line


def _place(action: actions.Action) -> tuple[int, int]:
    last = {"go.help": 1, "go.quit": 2}.get(action.id, 0)
    return last, action.bar
