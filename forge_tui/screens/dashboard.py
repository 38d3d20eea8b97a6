"""The home screen: one session, its progress, loss, memory, numbers and events.

It draws only what a snapshot says, and only while it is on top; a hidden dashboard costs nothing.
"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal

from forge.config import SEARCHED_PHASES
from forge.registry.lifecycle import State
from forge_tui.actions import DASHBOARD
from forge_tui.charts.widget import ChartView
from forge_tui.present import curves, events, evolution, figures, machine, status, welcome, words
from forge_tui.screens.base import HEIGHTS, WIDTHS, MainScreen, bindings
from forge_tui.state import Snapshot
from forge_tui.styles import sheet
from forge_tui.widgets.keybar import KeyBar
from forge_tui.widgets.pane import Pane
from forge_tui.widgets.textpane import Build, TextPane


class DashboardScreen(MainScreen):
    """Shows the session that the application follows."""

    NAME = DASHBOARD
    CSS_PATH = sheet("dashboard")
    BINDINGS = bindings(DASHBOARD)
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS

    def __init__(self, snapshot: Snapshot, *, ascii_only: bool = False) -> None:
        super().__init__()
        self._ascii = ascii_only
        self._snapshot = snapshot
        self._log = False
        self._zoomed: Pane | None = None
        self._lay_out()

    def compose(self) -> ComposeResult:
        """The panes from top to bottom."""
        yield TextPane(id="header")
        yield TextPane(id="welcome")
        with Pane(id="pipeline"):
            yield TextPane(id="phases")
        with Horizontal(id="middle", classes="row"):
            with Pane(id="loss"):
                yield TextPane(id="legend")
                yield ChartView(id="curve", ascii_only=self._ascii)
            with Pane(id="memory"):
                yield TextPane(id="machine")
                yield ChartView(id="machine-curve", ascii_only=self._ascii)
        with Horizontal(id="bottom", classes="row"):
            with Pane(id="numbers"):
                yield TextPane(id="figures", scrolls=True)
            with Pane(id="events"):
                yield TextPane(id="log", follow=True)
        yield KeyBar()

    def on_mount(self) -> None:
        """Give the boxes their names, and fill them."""
        for name in ("pipeline", "memory", "events"):
            self._pane(name).set_title(name)
        self.redraw()

    def on_screen_resume(self) -> None:
        """Catch up with what happened while another screen was on top."""
        self.show_snapshot(self.forge.snapshot)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Draw a newer snapshot, unless this screen is covered."""
        self._snapshot = snapshot
        # A screen that is being made or taken down has no panes.
        if self.is_current and self.query("#header"):
            with self.app.batch_update():
                self._lay_out()
                self.redraw()

    def _lay_out(self) -> None:
        """Which panes there are depends on what there is to show."""
        self.set_class(self._snapshot.session is None, "-empty")
        self.set_class(bool(figures.reports(self._snapshot) or self._snapshot.population), "-table")

    def redraw(self) -> None:
        """Bring every visible pane up to date."""
        snapshot = self._snapshot
        with self.app.batch_update():
            self._text("header", lambda width, _: [status.header(snapshot, width)])
            if snapshot.session is None:
                self._text("welcome", lambda width, height: welcome.lines(snapshot, width, height))
            else:
                self._draw_panes(snapshot)
            self.refresh_keys()

    def _draw_panes(self, snapshot: Snapshot) -> None:
        log, runs = self._log, figures.reports(snapshot)
        self._text("phases", lambda width, _: status.pipeline(snapshot, width))
        self._text("legend", lambda width, _: [curves.legend(snapshot, width, log=log)])
        self._text("machine", lambda width, height: machine.memory(snapshot, width, height))
        self._text("log", lambda width, _: events.events(snapshot, width))
        if snapshot.population and snapshot.phase in SEARCHED_PHASES:
            self._text("figures", lambda width, _: evolution.lines(snapshot, runs, width))
        elif runs:
            self._text("figures", lambda width, _: figures.report_lines(runs, width))
        else:
            self._text("figures", lambda width, _: figures.numbers(snapshot, width))
        self._pane("numbers").set_title(
            "report" if runs else "candidates" if snapshot.population else "numbers"
        )
        phase = words.phase_title(snapshot.phase) if snapshot.phase else ""
        what = "fitness" if snapshot.phase in SEARCHED_PHASES else "loss"
        self._pane("loss").set_title(f"{what} · {phase}" if phase else what)
        self.query_one("#curve", ChartView).show(curves.loss_chart(snapshot, log=log))
        self.query_one("#machine-curve", ChartView).show(machine.memory_chart(snapshot))
        for name in ("numbers", "events"):
            self._pane(name).tell_more()

    def _text(self, name: str, build: Build) -> None:
        self.query_one(f"#{name}", TextPane).show_by(build)

    def _pane(self, name: str) -> Pane:
        return self.query_one(f"#{name}", Pane)

    # --- actions -----------------------------------------------------------------------------------

    def do_session_new(self, _key: str) -> None:
        """Open the form."""
        self.forge.open_form()

    def do_go_validate(self, _key: str) -> None:
        """Show the proofs."""
        self.forge.open_validate()

    def do_go_sessions(self, _key: str) -> None:
        """Open the list."""
        self.forge.open_sessions()

    def do_go_cleanup(self, _key: str) -> None:
        """Go to the cleanup."""
        self.forge.open_cleanup()

    def do_run_pause(self, _key: str) -> None:
        """Pause, or go on."""
        self.forge.steer("resume" if self.context().state is State.PAUSED else "pause")

    def do_run_stop(self, _key: str) -> None:
        """Stop with a checkpoint."""
        self.forge.steer("stop")

    def do_run_checkpoint(self, _key: str) -> None:
        """Write a checkpoint."""
        self.forge.steer("checkpoint")

    def do_run_resume(self, _key: str) -> None:
        """Go on with this session."""
        if self._snapshot.session is not None:
            self.forge.resume(self._snapshot.session.id)

    def do_view_phase(self, key: str) -> None:
        """Look at the phase with this number."""
        phases = self._snapshot.phases
        if int(key) > len(phases):
            self.forge.hint(f"{key}: this session has {len(phases)} phases")
        else:
            self.forge.look_at(phases[int(key) - 1].phase)

    def do_view_follow(self, _key: str) -> None:
        """Look at the phase that runs."""
        self.forge.look_at(None)

    def do_pane_next(self, _key: str) -> None:
        """Focus the next pane."""
        self._cycle(1)

    def do_pane_previous(self, _key: str) -> None:
        """Focus the pane before."""
        self._cycle(-1)

    def do_pane_zoom(self, _key: str) -> None:
        """Give the screen to one pane, or take it back."""
        target = None if self._zoomed is not None else self._focused_pane() or self._pane("loss")
        self._set_zoom(target)

    def do_chart_log(self, _key: str) -> None:
        """Switch the loss axis."""
        self._log = not self._log
        self.redraw()

    def do_list_down(self, _key: str) -> None:
        """Scroll down."""
        self._scroll(1)

    def do_list_up(self, _key: str) -> None:
        """Scroll up."""
        self._scroll(-1)

    def do_list_top(self, _key: str) -> None:
        """Scroll to the first line."""
        self._scroll(-1_000_000)

    def do_list_bottom(self, _key: str) -> None:
        """Scroll to the last line."""
        self._scroll(1_000_000)

    def do_list_half_down(self, _key: str) -> None:
        """Scroll half a page down."""
        self._scroll(max(1, self._scrolled_pane().page // 2))

    def do_list_half_up(self, _key: str) -> None:
        """Scroll half a page up."""
        self._scroll(-max(1, self._scrolled_pane().page // 2))

    def _scroll(self, amount: int) -> None:
        for pane in (self._scrolled_pane(), self._pane("events")):
            if pane.scroll_text(amount):
                pane.tell_more()
                return

    def _scrolled_pane(self) -> Pane:
        return self._focused_pane() or self._pane("events")

    def _focused_pane(self) -> Pane | None:
        return self.focused if isinstance(self.focused, Pane) else None

    def _cycle(self, direction: int) -> None:
        panes = [pane for pane in self.query(Pane) if pane.size.height and pane.styles.display != "none"]
        if self._zoomed is not None:
            panes = list(self.query(Pane))
        if not panes:
            self.forge.hint("there is no pane to go to yet")
            return
        current = self._focused_pane()
        place = panes.index(current) + direction if current in panes else 0 if direction > 0 else -1
        chosen = panes[place % len(panes)]
        if self._zoomed is not None:
            self._set_zoom(chosen)
        self.set_focus(chosen)

    def _set_zoom(self, pane: Pane | None) -> None:
        self._zoomed = pane
        self.set_class(pane is not None, "-zoom")
        for each in self.query(Pane):
            each.set_class(each is pane, "-zoomed")
        for row in self.query(".row"):
            row.set_class(pane is not None and pane in row.children, "-zoomed")
        if pane is not None:
            self.set_focus(pane)
