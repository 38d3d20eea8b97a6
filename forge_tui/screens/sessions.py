"""The list of all sessions, paged by SQL: sort, filter, open, resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import Input

from forge.home import Home
from forge.registry import Connection, Registry, cleanup, edits
from forge.registry.rows import SessionRow
from forge_tui.actions import CLEANUP, SESSIONS
from forge_tui.messages import CleanupDone, TrashPlanned
from forge_tui.ports import EnginePort
from forge_tui.present import cleanup as present
from forge_tui.present import sessions
from forge_tui.screens.base import ListScreen, bindings
from forge_tui.screens.confirm import ConfirmDialog
from forge_tui.screens.labels import Labels, LabelsDialog
from forge_tui.services import cleanup as service
from forge_tui.services.listing import PAGE
from forge_tui.state import ORDERS, Cleaning, Context, ListQuery, Page, starting
from forge_tui.styles import sheet
from forge_tui.widgets.keybar import KeyBar
from forge_tui.widgets.listing import Listing
from forge_tui.widgets.textpane import TextPane


class SessionsScreen(ListScreen):
    """Lists sessions; what is listed is `query` and `offset`, which the application reads for it."""

    NAME = SESSIONS
    CSS_PATH = sheet("sessions")
    BINDINGS = bindings(SESSIONS)

    def __init__(self) -> None:
        super().__init__()
        self.list_query = ListQuery()
        self.offset_wanted = 0
        self._page: Page[SessionRow] = Page()
        self._undoable: service.Ids = ()

    def compose(self) -> ComposeResult:
        """Head, filter, columns, rows."""
        yield TextPane(id="head")
        yield Input(
            id="filter", placeholder="name, note, preset, state or tag", compact=True, select_on_focus=False
        )
        yield TextPane(id="columns")
        yield Listing(self._row_line, lambda row: row.id, id="rows")
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin with the cursor in the list."""
        self._filter.display = False
        # A blinking cursor would send something over the link twice a second.
        self._filter.cursor_blink = False
        self.set_focus(self.listing)
        self._draw_head()

    def context(self) -> Context:
        """The session under the cursor decides."""
        base, row = super().context(), self.listing.selected
        cleaning = Cleaning(busy=self.forge.is_busy(CLEANUP), undoable=len(self._undoable))
        base = replace(base, cleaning=cleaning)
        if row is None:
            return replace(base, state=None, hosted=False)
        return replace(
            base,
            state=row.state,
            name=row.name,
            hosted=self.forge.hosted == row.id,
            starting=starting(row),
            pinned=row.pinned,
        )

    def show_page(self, page: Page[SessionRow]) -> None:
        """Take in rows that were read."""
        if page.query is not None and page.query != self.list_query:
            return
        self._page = page
        with self.app.batch_update():
            self.listing.show_page(page)
            if not page.total:
                search = self.list_query.search
                self.listing.show_by(lambda width, _: [sessions.empty(search, width)])
            self._draw_head()
            self.refresh_keys()

    def _draw_head(self) -> None:
        page = self._page
        self.query_one("#head", TextPane).show_by(lambda width, _: [sessions.head(page, width)])
        self.query_one("#columns", TextPane).show_by(lambda width, _: [sessions.columns(width)])
        self.refresh_keys()

    def _row_line(self, row: SessionRow, width: int, chosen: bool) -> Text:
        return sessions.row_line(row, width, chosen, self.forge.now(), self._page.tags.get(row.id, ()))

    @property
    def listing(self) -> Listing[SessionRow]:
        """The list of sessions."""
        return self.query_one("#rows", Listing)

    @property
    def _filter(self) -> Input:
        return self.query_one("#filter", Input)

    @on(Listing.Wanted)
    def _read_more(self, message: Listing.Wanted) -> None:
        # Half a page before the gap, so that turning round does not read again at once.
        self.offset_wanted = max(0, message.index - PAGE // 2)
        self.forge.wake()

    @on(Listing.Moved)
    def _cursor_moved(self) -> None:
        self.refresh_keys()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, message: Input.Changed) -> None:
        self._ask(replace(self.list_query, search=message.value.strip()))

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.set_focus(self.listing)
        self._filter.display = bool(self.list_query.search)

    def _ask(self, query: ListQuery) -> None:
        self.list_query, self.offset_wanted = query, 0
        self.forge.wake()

    # --- actions -----------------------------------------------------------------------------------

    def do_session_new(self, _key: str) -> None:
        """Open the form."""
        self.forge.open_form()

    def do_go_validate(self, _key: str) -> None:
        """Show the proofs."""
        self.forge.open_validate()

    def do_list_open(self, _key: str) -> None:
        """Show the session on the dashboard."""
        if (row := self.listing.selected) is not None:
            self.forge.open_session(row.id)

    def do_run_resume(self, _key: str) -> None:
        """Go on with the session under the cursor."""
        if (row := self.listing.selected) is not None:
            self.forge.resume(row.id)

    def do_session_pin(self, _key: str) -> None:
        """Pin the session under the cursor, or let it go."""
        if (row := self.listing.selected) is not None:
            self.forge.change(lambda c: edits.set_pinned(c, row.id, not row.pinned))

    def do_session_labels(self, _key: str) -> None:
        """Change name, tags and note of the session under the cursor."""
        row = self.listing.selected
        if row is None:
            return
        session_id = row.id

        def answered(labels: Labels | None) -> None:
            if labels is not None:
                self.forge.change(partial(_label, session_id, labels))

        tags = self._page.tags.get(session_id, ())
        self.forge.push_screen(LabelsDialog(Labels(row.name, tags, row.note)), answered)

    def do_session_trash(self, _key: str) -> None:
        """See what would become of the session under the cursor, and ask."""
        if (row := self.listing.selected) is not None:
            self._tidy(partial(service.plan_one, row.id))

    @on(TrashPlanned)
    def _trash_planned(self, message: TrashPlanned) -> None:
        plan = message.plan
        if not plan.to_trash:
            self.forge.hint(present.refuse(plan))
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._tidy(partial(service.trash_one, plan))

        self.forge.push_screen(ConfirmDialog("to the trash", present.ask_trash(plan)), answered)

    def do_session_untrash(self, _key: str) -> None:
        """Bring back what was moved to the trash last."""
        self._tidy(partial(service.take_back, self._undoable))

    def _tidy(self, work: Callable[[Home, Registry, float], Message]) -> None:
        home = self.forge.store.home

        def run(engine: EnginePort) -> None:
            self.post_message(work(home, engine.registry, self.forge.now()))

        self.forge.ask(CLEANUP, run)

    @on(CleanupDone)
    def _tidied(self, message: CleanupDone) -> None:
        self._undoable = message.undoable
        self.forge.say("\n".join(message.sentences), timeout=12)
        self.refresh_keys()

    def do_go_cleanup(self, _key: str) -> None:
        """Go to the cleanup."""
        self.forge.open_cleanup()

    def do_list_filter(self, _key: str) -> None:
        """Type a filter."""
        self._filter.display = True
        # At once: the next key may be waiting already.
        self.set_focus(self._filter)

    def do_list_sort(self, _key: str) -> None:
        """Sort another way."""
        self._ask(replace(self.list_query, order=(self.list_query.order + 1) % len(ORDERS)))

    def do_go_dashboard(self, key: str) -> None:
        """Clear the filter first, then leave."""
        if key == "escape" and (self.list_query.search or self.focused is self._filter):
            self._filter.value = ""
            self._filter.display = False
            self.set_focus(self.listing)
        else:
            self.forge.go_dashboard()


def _label(session_id: str, labels: Labels, c: Connection) -> None:
    if edits.get_session(c, session_id).name != labels.name:
        edits.rename_session(c, session_id, labels.name)
    cleanup.set_tags(c, session_id, labels.tags)
    edits.set_note(c, session_id, labels.note)
