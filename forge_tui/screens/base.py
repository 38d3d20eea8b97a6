"""What screens have in common: keys from the action table, a key bar, reasons for what cannot be done.

No screen binds a key by itself, so the table, the help and the bindings can never disagree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.screen import ModalScreen, Screen

from forge_tui import actions
from forge_tui.actions import APP_KEYS, BY_ID
from forge_tui.state import Context, Snapshot
from forge_tui.text import compose
from forge_tui.widgets.keybar import KeyBar
from forge_tui.widgets.listing import Listing

if TYPE_CHECKING:
    from forge_tui.app import ForgeApp

Result = TypeVar("Result")
AnyScreen = TypeVar("AnyScreen", bound=Screen[Any])

MIN_WIDTH, MIN_HEIGHT = 60, 16

WIDTHS: list[tuple[int, str]] | None = [(0, "-narrow"), (80, "-normal"), (110, "-wide")]
HEIGHTS: list[tuple[int, str]] | None = [(0, "-short"), (24, "-medium"), (34, "-tall")]
"""Classes that a screen gets by its size; the style sheets lay out by them."""


def fitted(screen: AnyScreen, size: Size) -> AnyScreen:
    """Give a screen the classes of its size before it is first laid out, so that it is laid out once."""
    for length, points in (
        (size.width, screen.HORIZONTAL_BREAKPOINTS),
        (size.height, screen.VERTICAL_BREAKPOINTS),
    ):
        reached = [name for least, name in points or () if length >= least]
        screen.add_class(*reached[-1:])
    return screen


def bindings(screen: str) -> list[BindingType]:
    """The key bindings of a screen, made from the action table."""
    return [
        Binding(key, f"do({action.id!r}, {key!r})", action.title, show=False, id=f"{action.id}:{key}")
        for action in actions.on_screen(screen)
        for key in action.keys
        if key not in APP_KEYS
    ]


class Acting(Screen[Result]):
    """A screen whose keys come from the table."""

    AUTO_FOCUS: ClassVar[str | None] = ""
    NAME: ClassVar[str]

    @property
    def forge(self) -> ForgeApp:
        """The application, with its own type."""
        return cast("ForgeApp", self.app)

    def context(self) -> Context:
        """What decides which actions make sense now."""
        return self.forge.context(self.NAME)

    def action_do(self, action_id: str, key: str) -> None:
        """Do an action of the table, or say why it cannot be done now."""
        action = BY_ID[action_id]
        reason = action.why_not(self.context())
        if reason is not None:
            self.forge.hint(f"{actions.display(key)}: {reason}")
            return
        getattr(self, action.method)(key)

    def do_go_quit(self, _key: str) -> None:
        """Leave, after asking about a run."""
        self.forge.action_ask_quit()

    def do_go_help(self, _key: str) -> None:
        """Show what the keys do here."""
        self.forge.show_help(self.NAME)

    def do_go_palette(self, _key: str) -> None:
        """Find an action by its name."""
        self.forge.action_command_palette()

    def explain(self, key: str) -> None:
        """Say where a key works that does nothing here."""
        hint = None if key in self.active_bindings else actions.elsewhere(key, self.NAME)
        if hint is not None:
            self.forge.hint(hint)


class MainScreen(Acting[None]):
    """A full screen with a key bar."""

    async def look(self) -> None:
        """Look at what only this screen shows; called by the pulse while it is on top."""

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Take in what the service read; only the dashboard shows it all."""
        self.refresh_keys()

    def refresh_keys(self) -> None:
        """Draw the key bar for the present state."""
        for bar in self.query(KeyBar):
            bar.show_actions(self.NAME, self.context())


class ListScreen(MainScreen):
    """A full screen whose keys move the cursor of a list."""

    @property
    def listing(self) -> Listing[Any]:
        """The list that the keys are for."""
        raise NotImplementedError

    def step(self, amount: int) -> None:
        """Move by so many rows."""
        self.listing.move(amount)

    def do_list_down(self, _key: str) -> None:
        """One row down."""
        self.step(1)

    def do_list_up(self, _key: str) -> None:
        """One row up."""
        self.step(-1)

    def do_list_top(self, _key: str) -> None:
        """To the first row."""
        self.listing.move_to(0)

    def do_list_bottom(self, _key: str) -> None:
        """To the last row."""
        self.listing.move_to(self.listing.total - 1)

    def do_list_half_down(self, _key: str) -> None:
        """Half a page down."""
        self.listing.move(max(1, self.listing.size.height // 2))

    def do_list_half_up(self, _key: str) -> None:
        """Half a page up."""
        self.listing.move(-max(1, self.listing.size.height // 2))


class Dialog(ModalScreen[Result], Acting[Result]):
    """A small window over a screen."""


def too_small(width: int, height: int) -> bool:
    """Whether a terminal of this size cannot show the application."""
    return width < MIN_WIDTH or height < MIN_HEIGHT


class TooSmall(Screen[None]):
    """Says how large the terminal must be; goes away by itself."""

    def render(self) -> object:  # type: ignore[override]
        """One sentence that fits anywhere."""
        width, height = self.app.size
        return compose((f"needs {MIN_WIDTH}x{MIN_HEIGHT}, this is {width}x{height}", "bold"))


__all__ = ["Acting", "Dialog", "ListScreen", "MainScreen", "TooSmall", "bindings", "fitted", "too_small"]
