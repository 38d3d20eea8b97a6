"""The application: which screen is on top, what it reads, and what it asks of the engine.

Workers only post messages; every widget is touched here or in a screen, on the event loop. Training is never
touched at all: it is asked through the engine's port and watched through the registry.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.command import Provider

from forge.errors import ConfigError, ForgeError
from forge.home import Home
from forge.registry import Error
from forge_tui.messages import (
    DraftChecked,
    EngineAnswered,
    LeaveWanted,
    PageRead,
    SignalReceived,
    SnapshotTaken,
    TrialsChanged,
)
from forge_tui.palette import ActionProvider
from forge_tui.ports import Clock, EnginePort, wall_clock
from forge_tui.present.alarms import alarm
from forge_tui.screens.base import Acting, MainScreen, TooSmall, fitted
from forge_tui.screens.dashboard import DashboardScreen
from forge_tui.services.feed import SessionFeed
from forge_tui.services.listing import SessionLister
from forge_tui.services.pace import ATTACHED, HOSTING, LOW_BANDWIDTH, Pace
from forge_tui.services.prover import Prover, ProverPort
from forge_tui.services.proving import LEAVE_SECONDS, Proving
from forge_tui.services.pulse import Pulse, Wait, timed
from forge_tui.services.store import Store
from forge_tui.shell import Shell
from forge_tui.state import Context, Snapshot, starting

if TYPE_CHECKING:
    from textual.message_pump import MessagePump

    from forge.config import PipelineConfig
    from forge.registry import Connection
    from forge_tui.screens.sessions import SessionsScreen
    from forge_tui.screens.validate import ValidateScreen
    from forge_tui.trials import Trials

RECONCILE_SECONDS = 5.0
FIRST_LOOK_SECONDS = 0.5
"""The first frame waits this long for what it is to show."""
STOPPED, KEPT = "stopped", "kept"


class ForgeApp(Shell):
    """Forge in a terminal."""

    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {ActionProvider}
    ENABLE_COMMAND_PALETTE = True

    def __init__(
        self,
        home: Home,
        *,
        engine: EnginePort | None = None,
        prover: ProverPort | None = None,
        session: str | None = None,
        start: PipelineConfig | None = None,
        clock: Clock = wall_clock,
        wait: Wait = timed,
        ascii_only: bool = False,
        readonly: bool = False,
        low_bandwidth: bool = False,
    ) -> None:
        super().__init__(ascii_only=ascii_only)
        self.store = Store(home)
        self.feed = SessionFeed(self.store, clock)
        self._lister = SessionLister(self.store)
        self._limits = LOW_BANDWIDTH if low_bandwidth else ATTACHED
        self.pulse = Pulse(self._look, Pace(self._limits), wait=wait, peek=self._peek)
        self._engine = engine
        self.proving = Proving(prover or Prover(home), clock, self._trials_changed)
        self._clock = clock
        self._session = session
        self._start = start
        self._ascii = ascii_only
        self._readonly = readonly
        self._low_bandwidth = low_bandwidth
        self._busy: set[str] = set()
        self._reconciled = 0.0
        self._noticed = False
        self._told_link = False
        self._shown = Snapshot()
        self.hosted: str | None = None
        self.stopped: str | None = None
        """The session that a person stopped on the way out."""
        self.begun: list[str] = []
        """Sessions that were started from this screen, wherever they run."""
        self.warning = ""
        """To be said as soon as there is a screen."""

    # --- life --------------------------------------------------------------------------------------

    async def on_mount(self) -> None:
        """Look, show the dashboard with what was found, and go on looking."""
        first = asyncio.ensure_future(self._first_look())
        await asyncio.wait({first}, timeout=FIRST_LOOK_SECONDS)
        self.push_screen(fitted(DashboardScreen(self.snapshot, ascii_only=self._ascii), self.size))
        if self._start is not None:
            self.start(self._start, None)
        self.run_worker(self._follow(first), name="pulse", exit_on_error=True)

    async def _first_look(self) -> None:
        if self._start is not None:
            self.feed.snapshot = Snapshot(making=self._start.name)
            return
        if self._session is None:
            self._session = await self.feed.default_session()
        await self.feed.attach(self._session)
        await self.feed.read(hosted=None)

    async def _follow(self, first: asyncio.Future[None]) -> None:
        await first
        if self.warning:
            # Before its first frame a screen has nothing to say it on.
            self.screen.call_after_refresh(self.say, self.warning, "warning", timeout=30)
        await self.pulse.run()

    async def on_unmount(self) -> None:
        """Close the databases: an open one keeps the interpreter from ending. Proofs end with the screen."""
        await self.proving.cancel(LEAVE_SECONDS)
        await self.store.close()

    # --- looking -----------------------------------------------------------------------------------

    async def _look(self) -> None:
        """One look at what the screen on top shows; called by the pulse."""
        self._watch_host()
        screen = self.screen
        if isinstance(screen, DashboardScreen) or _is_validate(screen):
            snapshot = await self.feed.read(hosted=self.hosted)
            if snapshot is not None:
                self.post_message(SnapshotTaken(snapshot))
        elif isinstance(screen, MainScreen) and screen.NAME == "sessions":
            await self._look_at_list(screen)
        elif isinstance(screen, MainScreen):
            await screen.look()
        if self.proving.trials.busy:
            # The time that a proof takes goes on.
            self._trials_changed(self.proving.trials)
        self._reconcile_sometimes()

    async def _peek(self) -> bool:
        """Whether the registry has changed, as it does when somebody asks something of a run."""
        try:
            return await self.store.registry.peek()
        except Error:
            # The look itself says what is wrong.
            return True

    async def _look_at_list(self, screen: MainScreen) -> None:
        listing: SessionsScreen = screen  # type: ignore[assignment]
        page = await self._lister.read(listing.list_query, listing.offset_wanted)
        if page is not None:
            self.post_message(PageRead(page))

    def _watch_host(self) -> None:
        hosted = self._engine.hosted() if self._engine is not None else None
        if hosted != self.hosted:
            self.hosted = hosted
            self.lead_output(None if hosted is None else self.store.home.session(hosted).log)
            self._tell_link()
            busy = LOW_BANDWIDTH if self._low_bandwidth else HOSTING
            self.pulse.pace.limit(self._limits if hosted is None else busy)

    def _tell_link(self) -> None:
        # Inside tmux or screen nobody fears for what runs when the link breaks.
        bare = "SSH_CONNECTION" in os.environ and not {"TMUX", "STY"} & os.environ.keys()
        if self.hosted is not None and bare and not self._told_link:
            self._told_link = True
            self.say("Closing this link is safe: training goes on, and forge-tui attaches again.", timeout=12)

    def _reconcile_sometimes(self) -> None:
        session = self.snapshot.session
        # An owner that is dead is shown as such before the record says so.
        owned = session is not None and session.owner is not None
        due = self._reconciled == 0 or (owned and not self.hosted)
        if self._engine is None or self._readonly or not due:
            return
        if self._clock() - self._reconciled >= RECONCILE_SECONDS:
            self._reconciled = self._clock()
            self._ask("reconcile", lambda engine: ",".join(engine.reconcile()) or None)

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot of the session on the dashboard."""
        return self.feed.snapshot

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock()

    def wake(self) -> None:
        """Look again as soon as possible."""
        self.pulse.wake()

    @on(SnapshotTaken)
    def _snapshot_taken(self, message: SnapshotTaken) -> None:
        before, self._shown = self._shown, message.snapshot
        if (text := alarm(before, message.snapshot)) is not None:
            self.run_worker(self._call(text), group="alarm", exit_on_error=False)
        screen = self.screen
        if isinstance(screen, MainScreen):
            screen.show_snapshot(message.snapshot)

    async def _call(self, text: str) -> None:
        from forge.config import HomeSettings, load_settings

        try:
            settings = await asyncio.to_thread(load_settings, self.store.home.settings)
        except ConfigError:
            # The run's own events say what is wrong with the settings.
            settings = HomeSettings()
        self.ring(settings.notify.terminal, text)

    @on(PageRead)
    def _page_read(self, message: PageRead) -> None:
        screen = self.screen
        if isinstance(screen, MainScreen) and screen.NAME == "sessions":
            listing: SessionsScreen = screen  # type: ignore[assignment]
            listing.show_page(message.page)

    def _trials_changed(self, trials: Trials) -> None:
        self.post_message(TrialsChanged(trials))

    @on(TrialsChanged)
    def _show_trials(self, message: TrialsChanged) -> None:
        screen = self.screen
        if _is_validate(screen):
            proofs: ValidateScreen = screen  # type: ignore[assignment]
            proofs.show_trials(message.trials)

    def context(self, screen: str) -> Context:
        """What decides which actions make sense, for the session on the dashboard."""
        snapshot = self.snapshot
        session = snapshot.session
        return Context(
            screen=screen,
            state=None if session is None else session.state,
            name="" if session is None else session.name,
            hosted=session is not None and self.hosted == session.id,
            engine=self._engine is not None,
            readonly=self._readonly,
            phases=len(snapshot.phases),
            starting=starting(session),
        )

    # --- going somewhere ---------------------------------------------------------------------------

    def go_dashboard(self) -> None:
        """Take away everything that lies over the dashboard."""
        while len(self.screen_stack) > 1 and not isinstance(self.screen, (DashboardScreen, TooSmall)):
            self.pop_screen()
        self.feed.touch()
        self.wake()

    def _go_to(self, make: Callable[[], MainScreen]) -> None:
        self.go_dashboard()
        self.push_screen(fitted(make(), self.size))
        self._lister.touch()
        self.wake()

    def open_sessions(self) -> None:
        """Show the list of sessions."""
        from forge_tui.screens.sessions import SessionsScreen

        self._go_to(SessionsScreen)

    def open_cleanup(self) -> None:
        """Show the policy, the plan that it makes, and the trash."""
        from forge_tui.screens.cleanup import CleanupScreen

        self._go_to(CleanupScreen)

    def open_validate(self) -> None:
        """Show the proofs."""
        from forge_tui.screens.validate import ValidateScreen

        self._go_to(lambda: ValidateScreen(self.proving.trials))

    def prove(self, names: Sequence[str]) -> None:
        """Run some proofs, after those that wait."""
        if self.proving.ask(names):
            self.run_worker(self.proving.work(), name="proofs", group="proofs")

    def stop_proving(self) -> None:
        """End the proof that runs."""
        self.run_worker(self.proving.cancel(), name="cancel", group="cancel")

    def open_form(self) -> None:
        """Show the form for a new session."""
        from forge_tui.screens.new import NewSessionScreen

        self._go_to(NewSessionScreen)

    def open_session(self, session_id: str) -> None:
        """Follow a session on the dashboard."""
        self.run_worker(self._open(session_id), name="attach", group="attach", exclusive=True)

    async def _open(self, session_id: str) -> None:
        if session_id != self.feed.session_id:
            await self.feed.attach(session_id)
            await self.feed.read(hosted=self.hosted)
        self.go_dashboard()

    def look_at(self, phase: str | None) -> None:
        """Look at one phase of the session, or at whichever runs."""
        self.feed.choose(phase)
        self.wake()

    def show_help(self, screen: str) -> None:
        """Every key of a screen."""
        from forge_tui.screens.help import HelpDialog

        top = self.screen
        self.push_screen(
            HelpDialog(screen, top.context() if isinstance(top, Acting) else self.context(screen))
        )

    # --- asking the engine -------------------------------------------------------------------------

    def steer(self, kind: str) -> None:
        """Ask whoever runs the session on the dashboard for something."""
        session_id = self.feed.session_id
        if session_id is not None:
            self._ask(kind, partial(_request, session_id, kind))

    def resume(self, session_id: str) -> None:
        """Go on with a session that nobody runs, or that is paused."""
        self._ask("resume", partial(_resume, session_id))

    def start(self, config: PipelineConfig, name: str | None) -> None:
        """Make a session and run it."""
        self._ask("start", partial(_start, config, name))

    def change(self, edit: Callable[[Connection], object]) -> None:
        """Change something in the registry, such as a pin."""
        self._ask("change", partial(_change, edit))

    def ask(self, call: str, work: Callable[[EnginePort], None]) -> bool:
        """Do something with the engine in a thread; false while the call before is not answered yet."""
        free = not self.is_busy(call)
        self._ask(call, work)
        return free

    def is_busy(self, call: str) -> bool:
        """Whether a call was not answered yet."""
        return call in self._busy

    def _ask(self, call: str, work: Callable[[EnginePort], str | None]) -> None:
        if call in self._busy or self._engine is None:
            return
        self._busy.add(call)
        self.run_worker(partial(self._answer, call, work, self._engine), thread=True, group="engine")

    def _answer(self, call: str, work: Callable[[EnginePort], str | None], engine: EnginePort) -> None:
        # Runs in a thread: whatever goes wrong there becomes a sentence here.
        try:
            self.post_message(EngineAnswered(call, work(engine)))
        except ForgeError as error:
            self.post_message(EngineAnswered(call, error=str(error)))
        except Exception as error:  # noqa: BLE001 - a thread's failure becomes a sentence
            self.post_message(EngineAnswered(call, error=f"{call} failed: {type(error).__name__}: {error}"))

    @on(EngineAnswered)
    def _engine_answered(self, message: EngineAnswered) -> None:
        self._busy.discard(message.call)
        if message.call == "shutdown":
            self.exit(STOPPED)
            return
        if message.error is not None:
            self.feed.forget_making()
            self.post_message(SnapshotTaken(self.snapshot))
            self.say(message.error, "error", timeout=12)
        elif message.call in ("start", "resume") and message.session_id is not None:
            self.begun.append(message.session_id)
            self.open_session(message.session_id)
        notice = getattr(self._engine, "notice", None)
        if notice and not self._noticed:
            self._noticed = True
            self.say(str(notice), "warning", timeout=12)
        self.feed.touch()
        self.wake()

    @work(thread=True, exclusive=True, group="draft", exit_on_error=False)
    def check_draft(
        self, number: int, corpus: str, config: PipelineConfig | None, asker: MessagePump
    ) -> None:
        """Look at files and earlier sessions for the form; the answer goes back to it."""
        from forge.config.corpus import corpus_problem
        from forge_tui.services import estimates

        found = estimates.duration(self.store.home, config) if config is not None else None
        seconds, where = found or (None, None)
        asker.post_message(DraftChecked(number, corpus_problem(corpus), seconds, where))

    # --- leaving -----------------------------------------------------------------------------------

    def action_ask_quit(self) -> None:
        """Leave, after asking what becomes of a run in this program."""
        from forge_tui.screens.quit import QuitDialog

        if isinstance(self.screen, QuitDialog):
            self.screen.do_quit_cancel("")
        elif self._engine is None or self._engine.hosted() is None:
            self.exit(STOPPED)
        else:
            session = self.snapshot.session
            name = session.name if session is not None and session.id == self.hosted else "a session"
            self.push_screen(QuitDialog(name))

    def stop_and_exit(self) -> None:
        """Stop the run in this program with a checkpoint, then leave."""
        self.stopped = self.hosted
        self._ask("shutdown", lambda engine: engine.shutdown(keep_training=False))

    def signalled(self, number: int) -> None:
        """Say what comes of a signal; may be called from any thread."""
        self.post_message(SignalReceived(number))

    def leave(self, code: int | None) -> None:
        """Leave the screen, with an exit code or without a run's end; may be called from any thread."""
        self.post_message(LeaveWanted(code))

    def may_suspend(self) -> bool:
        """Whether SIGTSTP may stop this process: not while it trains, for that would stop too."""
        if self.hosted is not None:
            self.signalled(signal.SIGTSTP)
        return self.hosted is None

    @on(SignalReceived)
    def _signal_received(self, message: SignalReceived) -> None:
        if message.number == signal.SIGTSTP:
            self.hint("This program trains and is not suspended: q leaves the screen without it.")
        elif self.hosted is not None:
            name = signal.Signals(message.number).name
            self.say(f"{name}: stopping at the next step with a checkpoint", "warning", timeout=60)

    @on(LeaveWanted)
    def _leave_wanted(self, message: LeaveWanted) -> None:
        if message.code is None:
            self.exit(KEPT)
        else:
            self.exit(STOPPED, return_code=message.code)

    def exit_keeping(self) -> None:
        """Leave the screen; whoever started the application waits for the run."""
        self.exit(KEPT)


def _is_validate(screen: object) -> bool:
    # By name: the screen is imported when somebody goes there.
    return isinstance(screen, MainScreen) and screen.NAME == "validate"


def _request(session_id: str, kind: str, engine: EnginePort) -> str | None:
    engine.request(session_id, kind)
    return session_id


def _change(edit: Callable[[Connection], object], engine: EnginePort) -> None:
    engine.registry.write(edit)


def _resume(session_id: str, engine: EnginePort) -> str | None:
    engine.resume(session_id)
    return session_id


def _start(config: PipelineConfig, name: str | None, engine: EnginePort) -> str | None:
    session_id = engine.create(config, name)
    engine.start(session_id)
    return session_id
