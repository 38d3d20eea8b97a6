"""Cleanup: the policy, the plan that it makes now, the disk, and the trash with its way back.

Nothing is moved but by the plan on the screen, after a question; the plan is the object that `forge clean`
shows. Folders are walked and plans made in threads; a newer question makes an older answer worthless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Input

from forge.errors import ForgeError
from forge.home import Home
from forge.registry import Error, Registry, SessionRow, TrashRow
from forge.retention import Decision, Plan, SessionCleanupPolicy, decide
from forge_tui.actions import CLEANUP
from forge_tui.messages import CleanupDone, HomeSeen, PlanMade
from forge_tui.ports import EnginePort
from forge_tui.present import cleanup as present
from forge_tui.present import disk
from forge_tui.screens.base import HEIGHTS, WIDTHS, ListScreen, bindings
from forge_tui.screens.confirm import ConfirmDialog
from forge_tui.services import cleanup as service
from forge_tui.state import Cleaning, Context, Page, starting
from forge_tui.styles import sheet
from forge_tui.text import safe
from forge_tui.widgets.keybar import KeyBar
from forge_tui.widgets.listing import Listing
from forge_tui.widgets.policy import PolicyForm
from forge_tui.widgets.textpane import TextPane

POLICY, PLAN, TRASH = "policy", "plan", "trash"
Work = Callable[[Home, Registry, float], CleanupDone]


class CleanupScreen(ListScreen):
    """Cleans up a home."""

    NAME = CLEANUP
    CSS_PATH = sheet("cleanup")
    BINDINGS = bindings(CLEANUP)
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self._rhythm = service.Rhythm()
        self._looking = True
        """A look is under way, or the screen is not there yet."""
        self._asked = 0
        self._found: service.Found | None = None
        self._plan: Plan | None = None
        self._problem: str | None = None
        self._result: tuple[str, ...] = ()
        self._undoable: service.Ids = ()

    def compose(self) -> ComposeResult:
        """Head, policy beside the disk, plan, trash, what came of the last cleanup, keys."""
        yield TextPane(id="head")
        with Horizontal(id="top"):
            yield PolicyForm(id=POLICY, classes="part")
            with Vertical(id="disk", classes="part"):
                yield TextPane(id="bar")
        with Vertical(id=PLAN, classes="part"):
            yield TextPane(id="plan-columns", classes="columns")
            yield Listing(self._plan_line, lambda decision: decision.session.id, id="decisions")
        with Vertical(id=TRASH, classes="part"):
            yield TextPane(id="trash-columns", classes="columns")
            yield Listing(self._trash_line, lambda row: row.session_id, id="trashed")
        yield TextPane(id="result")
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin with the cursor in the plan, and look."""
        self._pane("plan-columns").show_by(lambda width, _: [present.plan_columns(width)])
        self._pane("trash-columns").show_by(lambda width, _: [present.trash_columns(width)])
        _entitle(self.query_one("#disk"), "disk")
        self.set_focus(self._decisions)
        self._start_look()
        self._draw()

    def context(self) -> Context:
        """The session under the cursor of the plan, and what can be cleaned, decide."""
        base, row, form = super().context(), self._chosen, self._form
        plan = self._plan if self._plan is not None and self._plan.policy == form.policy else None
        cleaning = Cleaning(
            part=self._part,
            refused=form.policy is None,
            saved=not form.changed,
            looking=plan is None,
            busy=self.forge.is_busy(CLEANUP),
            going=0 if plan is None else len(plan.to_trash),
            undoable=len(self._undoable),
            trashed=len(self._trash),
        )
        if row is None:
            return replace(base, state=None, hosted=False, cleaning=cleaning)
        return replace(
            base, state=row.state, name=row.name, hosted=self.forge.hosted == row.id, starting=starting(row),
            pinned=row.pinned, cleaning=cleaning,
        )  # fmt: skip

    # --- looking -----------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look again when the registry has changed, or ages have grown; called by the pulse."""
        try:
            changed = await self.forge.store.registry.changed()
        except (Error, ForgeError):
            # What is wrong with it the next look says.
            changed = False
        if changed:
            self._rhythm.change()
        if not self._looking and self._rhythm.due(self.forge.now()):
            self._start_look()

    def _start_look(self) -> None:
        self._looking = True
        self._rhythm.begin()
        self.run_worker(self._look, name="look", group="look", thread=True)

    def _look(self) -> None:
        # In a thread: whatever goes wrong becomes a sentence.
        try:
            self.post_message(HomeSeen(service.look(self.forge.store.home)))
        except (ForgeError, Error) as error:
            self.post_message(HomeSeen(None, str(error)))
        except OSError as error:
            self.post_message(HomeSeen(None, f"{error.filename}: {error.strerror}"))

    @on(HomeSeen)
    def _home_seen(self, message: HomeSeen) -> None:
        self._looking = False
        self._rhythm.end(self.forge.now())
        self._see(message.found, message.problem)

    def _see(self, found: service.Found | None, problem: str | None) -> None:
        self._problem = problem
        if found is not None:
            self._found = found
            self._form.adopt(found.settings.policy)
        self._make_plan()

    def _make_plan(self) -> None:
        """Try the policy on what was seen; until that is done the plan from before is shown."""
        self._asked += 1
        policy, found = self._form.policy, self._found
        if policy is None:
            self._plan = None
        elif found is not None:
            work = partial(self._decide, self._asked, found, policy, self.forge.now())
            self.run_worker(work, name="plan", group="plan", thread=True)
        self._draw()

    def _decide(self, number: int, found: service.Found, policy: SessionCleanupPolicy, now: float) -> None:
        self.post_message(PlanMade(number, decide(found.survey, policy, now)))

    @on(PlanMade)
    def _plan_made(self, message: PlanMade) -> None:
        if message.number == self._asked:
            self._plan = message.plan
            self._draw()

    # --- drawing -----------------------------------------------------------------------------------

    def _draw(self) -> None:
        plan, problem, refused = self._plan, self._problem, self._form.policy is None
        decisions = () if plan is None else plan.decisions
        with self.app.batch_update():
            self._pane("head").show_by(lambda width, _: [present.head(plan, refused, problem, width)])
            self._draw_disk()
            self._decisions.show_page(Page(decisions, 0, len(decisions)))
            if not decisions:
                self._decisions.show_by(lambda width, _: present.no_plan(plan, refused, width))
            self._trashed.show_page(Page(self._trash, 0, len(self._trash)))
            if not self._trash:
                self._trashed.show_by(lambda width, _: present.empty_trash(width))
            self._draw_result()
            self._draw_parts()

    def _draw_disk(self) -> None:
        found, plan = self._found, self._plan
        if found is None:
            return
        going = 0 if plan is None else plan.bytes_to_trash
        room = disk.Room(found.bytes - going, going, sum(row.bytes for row in found.trash))
        self._pane("bar").show_by(lambda width, height: disk.lines(found.disk, room, width, height))

    def _draw_parts(self) -> None:
        """What depends on where the cursor is."""
        for part in (POLICY, TRASH):
            self.set_class(self._part == part, f"-at-{part}")
        _entitle(self._form, "policy · w keeps what you changed" if self._form.changed else POLICY)
        planned, thrown = self._decisions.selected, self._trashed.selected
        width = self._decisions.size.width
        long = planned is not None and len(planned.reason) > present.reason_room(width)
        _entitle(self.query_one(f"#{PLAN}"), PLAN, planned.reason if planned is not None and long else "")
        below = thrown.reason if thrown is not None and self._part == TRASH else ""
        _entitle(self.query_one(f"#{TRASH}"), present.trash_title(self._trash), below)
        self.refresh_keys()

    def _draw_result(self) -> None:
        result, pane = self._result, self._pane("result")
        pane.show_by(lambda width, _: present.result_lines(result, width))
        pane.display = bool(result)

    def _plan_line(self, decision: Decision, width: int, chosen: bool) -> Text:
        return present.plan_line(decision, width, chosen and self._part == PLAN)

    def _trash_line(self, row: TrashRow, width: int, chosen: bool) -> Text:
        return present.trash_line(
            row, width, chosen and self._part == TRASH, self.forge.now(), auto=self._auto
        )

    def _pane(self, name: str) -> TextPane:
        return self.query_one(f"#{name}", TextPane)

    @property
    def _form(self) -> PolicyForm:
        return self.query_one(PolicyForm)

    @property
    def _decisions(self) -> Listing[Decision]:
        return self.query_one("#decisions", Listing)

    @property
    def _trashed(self) -> Listing[TrashRow]:
        return self.query_one("#trashed", Listing)

    @property
    def _trash(self) -> tuple[TrashRow, ...]:
        return () if self._found is None else self._found.trash

    @property
    def _auto(self) -> bool:
        return self._found is None or self._found.settings.auto

    @property
    def _part(self) -> str:
        if isinstance(self.focused, Input):
            return POLICY
        return TRASH if self.focused is self._trashed else PLAN

    @property
    def _chosen(self) -> SessionRow | None:
        decision = self._decisions.selected if self._part == PLAN else None
        return None if decision is None else decision.session

    @property
    def listing(self) -> Listing[Any]:
        """The list that the cursor is in."""
        return self._trashed if self._part == TRASH else self._decisions

    @on(Listing.Moved)
    def _cursor_moved(self) -> None:
        self._draw_parts()

    def on_descendant_focus(self) -> None:
        """The cursor has come into another part."""
        self._draw()

    @on(PolicyForm.Changed)
    def _policy_typed(self) -> None:
        self._make_plan()

    @on(PolicyForm.Done)
    def _policy_done(self) -> None:
        self.set_focus(self._decisions)

    # --- changing something ------------------------------------------------------------------------

    def _confirm(self, title: str, question: str, work: Work) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._do(work)

        self.forge.push_screen(ConfirmDialog(title, question), answered)

    def _do(self, work: Work) -> None:
        home = self.forge.store.home

        def run(engine: EnginePort) -> None:
            self.post_message(work(home, engine.registry, self.forge.now()))

        self.forge.ask(CLEANUP, run)
        self.refresh_keys()

    @on(CleanupDone)
    def _cleanup_done(self, message: CleanupDone) -> None:
        self._result, self._undoable = message.sentences, message.undoable
        self._rhythm.hurry()
        self._draw()

    def do_cleanup_execute(self, _key: str) -> None:
        """Carry out the plan on the screen."""
        if (plan := self._plan) is not None:
            self._confirm("clean up", present.ask_clean(plan), partial(service.clean, plan))

    def do_cleanup_undo(self, _key: str) -> None:
        """Bring back the session under the cursor of the trash, or all that the last cleanup took."""
        chosen = self._trashed.selected if self._part == TRASH else None
        rows: Sequence[TrashRow] = [row for row in self._trash if row.session_id in self._undoable]
        self._do(partial(service.undo, (chosen,) if chosen is not None else rows, self._undoable))

    def do_trash_purge(self, _key: str) -> None:
        """Delete the session under the cursor of the trash for good."""
        if (row := self._trashed.selected) is not None:
            self._purge("delete for good", (row,))

    def do_trash_empty(self, _key: str) -> None:
        """Delete everything in the trash for good."""
        self._purge("empty the trash", self._trash)

    def _purge(self, title: str, rows: Sequence[TrashRow]) -> None:
        self._confirm(title, present.ask_purge(rows), partial(service.purge, rows, self._undoable))

    def do_session_pin(self, _key: str) -> None:
        """Pin the session under the cursor, or let it go."""
        if (row := self._chosen) is not None:
            self._do(partial(service.pin, row, self._undoable))

    # --- going about -------------------------------------------------------------------------------

    def do_policy_edit(self, _key: str) -> None:
        """To the first field of the policy."""
        self._form.edit()

    def do_policy_save(self, _key: str) -> None:
        """Make what is typed the policy of the home."""
        if (policy := self._form.policy) is not None:
            self._do(partial(service.save, policy, self._undoable))

    def do_part_next(self, _key: str) -> None:
        """From the plan to the trash, to the policy, and round."""
        self._go({PLAN: TRASH, TRASH: POLICY, POLICY: PLAN}[self._part])

    def do_part_previous(self, _key: str) -> None:
        """The other way round."""
        self._go({PLAN: POLICY, POLICY: TRASH, TRASH: PLAN}[self._part])

    def _go(self, part: str) -> None:
        if part == POLICY:
            self.do_policy_edit("")
        else:
            self.set_focus(self._decisions if part == PLAN else self._trashed)

    def do_list_open(self, _key: str) -> None:
        """Show the session under the cursor of the plan on the dashboard."""
        if (row := self._chosen) is not None:
            self.forge.open_session(row.id)

    def do_go_sessions(self, _key: str) -> None:
        """Go to the list."""
        self.forge.open_sessions()

    def do_go_dashboard(self, key: str) -> None:
        """Leave a field or the trash first, then the screen."""
        if key == "escape" and self._part != PLAN:
            self.set_focus(self._decisions)
        else:
            self.forge.go_dashboard()

    def step(self, amount: int) -> None:
        """Move by rows, or by fields while one is typed in."""
        if isinstance(self.focused, Input):
            self._form.step(amount)
        else:
            self.listing.move(amount)


def _entitle(box: Widget, title: str, below: str = "") -> None:
    """Write into the border of a box what may come from outside."""
    above = safe(title).plain.replace("[", "\\[")
    under = safe(below).plain.replace("[", "\\[")
    if (str(box.border_title or ""), str(box.border_subtitle or "")) != (above, under):
        box.border_title = above
        box.border_subtitle = under
