"""The proofs on one screen: run one or all, watch them, and read figure, threshold and verdict.

They run in processes of their own that the application looks after: leaving this screen stops none of them.
"""

from __future__ import annotations

from dataclasses import replace

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal

from forge_tui.actions import VALIDATE
from forge_tui.present import trials as present
from forge_tui.screens.base import HEIGHTS, WIDTHS, MainScreen, bindings
from forge_tui.state import Context, Snapshot
from forge_tui.styles import sheet
from forge_tui.trials import DOCTOR, Trial, Trials
from forge_tui.widgets.keybar import KeyBar
from forge_tui.widgets.pane import Pane
from forge_tui.widgets.textpane import TextPane


class ValidateScreen(MainScreen):
    """Lists the proofs; below, what the one under the cursor found."""

    NAME = VALIDATE
    CSS_PATH = sheet("validate")
    BINDINGS = bindings(VALIDATE)
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self._trials = trials
        self._cursor = 0

    def compose(self) -> ComposeResult:
        """Head, list, and the details beside doctor's findings."""
        yield TextPane(id="head")
        yield TextPane(id="list")
        with Horizontal(id="below"):
            with Pane(id="found"):
                yield TextPane(id="details", scrolls=True)
            with Pane(id="doctor"):
                yield TextPane(id="facts", scrolls=True)
        yield KeyBar()

    def on_mount(self) -> None:
        """Draw what there is."""
        self.query_one("#list").styles.height = len(self._trials.entries) + 1
        self.query_one("#doctor", Pane).set_title("this machine")
        self.redraw()

    def on_screen_resume(self) -> None:
        """Catch up with what happened while another screen was on top."""
        self.redraw()

    def context(self) -> Context:
        """What runs decides."""
        return replace(super().context(), proving=self._trials.busy)

    @property
    def selected(self) -> Trial:
        """The entry under the cursor."""
        return self._trials.entries[self._cursor]

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Whether a run is live is said in the head."""
        self.redraw()

    def show_trials(self, trials: Trials) -> None:
        """Take in what became of the proofs."""
        self._trials = trials
        self.redraw()

    def redraw(self) -> None:
        """Draw everything from the present values; cells that stay the same are not sent."""
        if not self.is_current or not self.query("#head"):
            return
        live = super().context().live or self.forge.hosted is not None
        with self.app.batch_update():
            self.query_one("#head", TextPane).show_by(
                lambda width, _: [present.head(self._trials, live, width)]
            )
            self.query_one("#list", TextPane).show_by(self._rows)
            self._draw_details()
            self.refresh_keys()

    def _draw_details(self) -> None:
        trial, quick = self.selected, self._trials.quick
        pane = self.query_one("#found", Pane)
        pane.set_title(trial.name)
        self.query_one("#details", TextPane).show_by(
            lambda width, _: present.details(trial, width, quick=quick)
        )
        doctor = self._trials.named(DOCTOR)
        self.query_one("#facts", TextPane).show_by(
            lambda width, _: present.details(doctor, width, quick=quick)
        )
        self.call_after_refresh(self._tell_more)

    def _tell_more(self) -> None:
        for pane in self.query(Pane):
            pane.tell_more()

    def _rows(self, width: int, _height: int) -> list[Text]:
        now, quick = self.forge.now(), self._trials.quick
        return [
            present.row_line(entry, width, number == self._cursor, now, quick=quick)
            for number, entry in enumerate(self._trials.entries)
        ]

    def _move_to(self, place: int) -> None:
        before, last = self._cursor, len(self._trials.entries) - 1
        self._cursor = max(0, min(place, last))
        if self._cursor != before:
            # Another text begins at its first line.
            self.query_one("#details", TextPane).scroll_text(-1_000_000)
        self.redraw()

    # --- actions -----------------------------------------------------------------------------------

    def do_trial_run(self, _key: str) -> None:
        """Run the one under the cursor, after those that wait."""
        self.forge.prove([self.selected.name])

    def do_trial_all(self, _key: str) -> None:
        """Run all of them."""
        self.forge.prove([entry.name for entry in self._trials.entries])

    def do_trial_form(self, _key: str) -> None:
        """Quick or full."""
        self.forge.proving.toggle_form()

    def do_trial_cancel(self, _key: str) -> None:
        """End what runs, and let nothing else begin."""
        self.forge.stop_proving()

    def do_go_dashboard(self, _key: str) -> None:
        """Leave; what runs goes on."""
        self.forge.go_dashboard()

    def do_list_down(self, _key: str) -> None:
        """One entry down."""
        self._move_to(self._cursor + 1)

    def do_list_up(self, _key: str) -> None:
        """One entry up."""
        self._move_to(self._cursor - 1)

    def do_list_top(self, _key: str) -> None:
        """To the first entry."""
        self._move_to(0)

    def do_list_bottom(self, _key: str) -> None:
        """To the last entry."""
        self._move_to(len(self._trials.entries) - 1)

    def do_list_half_down(self, _key: str) -> None:
        """Scroll the details down."""
        self._scroll(1)

    def do_list_half_up(self, _key: str) -> None:
        """Scroll the details up."""
        self._scroll(-1)

    def _scroll(self, direction: int) -> None:
        pane = self.query_one("#found", Pane)
        pane.scroll_text(direction * max(1, pane.page // 2))
        pane.tell_more()
