"""The command palette: every action of the screen below it, with the reason where one cannot be done now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.markup import escape

from forge_tui import actions
from forge_tui.actions import Action
from forge_tui.screens.base import Acting
from forge_tui.text import clean, compose

if TYPE_CHECKING:
    from textual.screen import Screen


class ActionProvider(Provider):
    """Finds actions by their title and help."""

    async def discover(self) -> Hits:
        """Everything that can be done here, before anything is typed."""
        for action, run in _offered(self.screen):
            yield DiscoveryHit(_title(action), run, text=action.title, help=_about(self.screen, action))

    async def search(self, query: str) -> Hits:
        """What fits a text."""
        matcher = self.matcher(query)
        for action, run in _offered(self.screen):
            score = max(matcher.match(action.title), matcher.match(action.help) * 0.8)
            if score > 0:
                yield Hit(score, _title(action), run, text=action.title, help=_about(self.screen, action))


def _offered(screen: Screen[object]) -> list[tuple[Action, Callable[[], None]]]:
    if not isinstance(screen, Acting):
        return []
    return [
        (action, partial(screen.action_do, action.id, action.keys[0]))
        for action in actions.on_screen(screen.NAME)
        if action.id not in ("go.palette", "view.phase")
    ]


def _title(action: Action) -> Text:
    return compose((action.title, "bold"), (f"  {actions.display_keys(action)}", "dim"))


def _about(screen: Screen[object], action: Action) -> str:
    reason = action.why_not(screen.context()) if isinstance(screen, Acting) else None
    # The palette reads this, and only this, as markup.
    return escape(clean(action.help if reason is None else f"not now: {reason}"))
