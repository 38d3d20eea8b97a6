"""The one table of actions: it feeds bindings, key bar, help, command palette and, later, the user's key map.

An action that makes no sense now stays visible and says why: `why_not` returns the sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from forge.registry.lifecycle import State
from forge_tui.state import Context

DASHBOARD, SESSIONS, NEW, HELP, QUIT, CONFIRM = "dashboard", "sessions", "new", "help", "quit", "confirm"
CLEANUP, VALIDATE, LABELS = "cleanup", "validate", "labels"
MAIN = (DASHBOARD, SESSIONS)
EVERYWHERE = (DASHBOARD, SESSIONS, NEW, CLEANUP, VALIDATE)
LISTS = (DASHBOARD, SESSIONS, CLEANUP, VALIDATE, HELP)

SCREEN_TITLES = {
    DASHBOARD: "dashboard", SESSIONS: "sessions", NEW: "new session", CLEANUP: "cleanup",
    VALIDATE: "validate",
}  # fmt: skip

WhyNot = Callable[[Context], str | None]


def _always(_: Context) -> str | None:
    return None


def _needs_session(context: Context) -> str | None:
    return None if context.state is not None else "there is no session here yet; n makes one"


def _needs_control(context: Context) -> str | None:
    if context.readonly:
        return "this screen only looks (--readonly); start forge-tui without it to steer"
    return None if context.engine else "this screen has no engine and only looks"


def _needs_live(context: Context) -> str | None:
    reason = _needs_control(context) or _needs_session(context)
    if reason is not None or context.live:
        return reason
    if context.starting:
        return "the session is just starting; a moment"
    if context.resumable:
        return f"nothing runs: the session is {context.state}; r goes on with it"
    return f"nothing runs: the session is {context.state}"


def _can_resume(context: Context) -> str | None:
    reason = _needs_control(context) or _needs_session(context)
    if reason is not None:
        return reason
    if context.state is State.RUNNING:
        return "the session is running already"
    if context.state is State.PAUSED:
        return None
    if context.starting:
        return "the session is just starting"
    return None if context.resumable else f"the session is {context.state}; n makes a new one"


def _can_make(context: Context) -> str | None:
    return _needs_control(context)


def _can_start(context: Context) -> str | None:
    reason = _needs_control(context)
    if reason is None and not context.valid:
        reason = "the form has a problem; its reason stands beside the field"
    return reason


def _can_pin(context: Context) -> str | None:
    reason = _needs_control(context)
    if reason is None and context.state is None:
        reason = "there is no session under the cursor"
    return reason


def _can_tidy(context: Context) -> str | None:
    reason = _needs_control(context)
    if reason is None and context.cleaning.busy:
        reason = "sessions are just being moved or deleted; a moment"
    return reason


def _can_trash(context: Context) -> str | None:
    reason = _can_tidy(context) or _can_pin(context)
    return f"the session is {context.state}; stop it first" if reason is None and context.live else reason


def _can_take_back(context: Context) -> str | None:
    reason = _can_tidy(context)
    if reason is None and not context.cleaning.undoable:
        reason = "nothing was moved to the trash here; C shows all that lies there"
    return reason


def _can_clean(context: Context) -> str | None:
    now = context.cleaning
    if (reason := _can_tidy(context)) is not None:
        return reason
    if now.refused:
        return "the policy has a problem; its reason stands beside the field"
    if now.looking:
        return "the plan is just being made; a moment"
    return None if now.going else "there is nothing to clean; every session says why it stays"


def _can_save(context: Context) -> str | None:
    now = context.cleaning
    if (reason := _can_tidy(context)) is not None:
        return reason
    if now.refused:
        return "the policy has a problem; its reason stands beside the field"
    return "the policy is that of this home already; e changes it" if now.saved else None


def _can_undo(context: Context) -> str | None:
    now = context.cleaning
    if (reason := _can_tidy(context)) is not None:
        return reason
    if not now.trashed:
        return "the trash is empty, so there is nothing to bring back"
    if now.part != "trash" and not now.undoable:
        return "nothing was cleaned up here yet; tab goes to the trash, u there brings a session back"
    return None


def _can_purge(context: Context) -> str | None:
    reason = _can_empty(context)
    if reason is None and context.cleaning.part != "trash":
        reason = "tab goes to the trash; D there deletes the session under the cursor for good"
    return reason


def _can_empty(context: Context) -> str | None:
    reason = _can_tidy(context)
    return "the trash is empty" if reason is None and not context.cleaning.trashed else reason


def _can_prove(context: Context) -> str | None:
    if context.readonly:
        return "this screen only looks (--readonly); start forge-tui without it, or use forge validate"
    return None


def _proves(context: Context) -> str | None:
    return None if context.proving else "no proof runs now; enter runs one"


def _has_phases(context: Context) -> str | None:
    return None if context.phases else "there are no phases to look at yet"


@dataclass(frozen=True)
class Action:
    """One thing that a person can do."""

    id: str
    keys: tuple[str, ...]
    title: str
    help: str
    screens: tuple[str, ...]
    why_not: WhyNot = _always
    bar: int = 0
    """Place in the key bar; 0 leaves it out. When room is short, high numbers go first."""

    @property
    def method(self) -> str:
        """Name of the screen's method that does it."""
        return "do_" + self.id.replace(".", "_")

    def label(self, context: Context) -> str:
        """The title for the present state."""
        if self.id == "run.pause" and context.state is State.PAUSED:
            return "resume"
        if self.id == "session.pin" and context.pinned:
            return "unpin"
        return self.title


def _a(
    id: str,
    keys: str,
    title: str,
    screens: tuple[str, ...],
    help: str,
    *,
    bar: int = 0,
    when: WhyNot = _always,
) -> Action:
    return Action(id, tuple(keys.split()), title, help, screens, when, bar)


# fmt: off
ACTIONS: tuple[Action, ...] = (
    _a("session.new", "n", "new", MAIN,
       "Make a new session: a form with everything checked as you type.", bar=1, when=_can_make),
    _a("run.pause", "space", "pause", (DASHBOARD,),
       "Pause at the next step, or let a paused run go on.", bar=2, when=_needs_live),
    _a("run.stop", "s", "stop", (DASHBOARD,),
       "Stop at the next step with a checkpoint; r goes on from there.", bar=3, when=_needs_live),
    _a("run.resume", "r", "resume", MAIN,
       "Go on with a paused, stopped, interrupted or failed session.", bar=4, when=_can_resume),
    _a("run.checkpoint", "c", "checkpoint", (DASHBOARD,),
       "Write a checkpoint at the next step.", bar=5, when=_needs_live),
    _a("view.phase", "1 2 3 4 5 6 7 8 9", "phase", (DASHBOARD,),
       "Look at a phase by its number.", bar=9, when=_has_phases),
    _a("view.follow", "0", "follow", (DASHBOARD,),
       "Look at the phase that runs, whichever it is.", when=_has_phases),
    _a("pane.next", "tab", "pane", (DASHBOARD,), "Go to the next pane.", bar=10),
    _a("pane.previous", "shift+tab", "previous pane", (DASHBOARD,), "Go to the pane before."),
    _a("pane.zoom", "z", "zoom", (DASHBOARD,),
       "Give the whole screen to the pane in focus, or take it back.", bar=8, when=_needs_session),
    _a("chart.log", "y", "log axis", (DASHBOARD,),
       "Switch the loss axis between linear and logarithmic.", bar=11, when=_needs_session),
    _a("cleanup.execute", "x", "clean up", (CLEANUP,),
       "Move what the plan says to the trash, after a question.", bar=1, when=_can_clean),
    _a("cleanup.undo", "u", "undo", (CLEANUP,),
       "Bring back the session under the cursor of the trash; from the plan, all that the last cleanup took.",
       bar=1, when=_can_undo),
    _a("trash.empty", "E", "empty trash", (CLEANUP,),
       "Delete everything in the trash for good, after a question, and free its room.", bar=2,
       when=_can_empty),
    _a("trash.purge", "D", "delete", (CLEANUP,),
       "Delete the session under the cursor of the trash for good, after a question.", bar=2,
       when=_can_purge),
    _a("policy.edit", "e", "policy", (CLEANUP,),
       "Change the policy; the plan follows as you type. An empty field means no limit.", bar=1),
    _a("policy.save", "w", "keep policy", (CLEANUP,),
       "Keep the policy in the settings of this home: every cleanup goes by it from then on.", bar=4,
       when=_can_save),
    _a("part.next", "tab", "next part", (CLEANUP,), "From the plan to the trash, to the policy, and round.",
       bar=1),
    _a("part.previous", "shift+tab", "part before", (CLEANUP,), "The other way round."),
    _a("session.pin", "p", "pin", (SESSIONS, CLEANUP),
       "Pin the session under the cursor, so that no cleanup takes it, or let it go.", bar=9, when=_can_pin),
    _a("session.labels", "m", "labels", (SESSIONS,),
       "Change name, tags and note of the session under the cursor.", bar=10, when=_can_pin),
    _a("session.trash", "D", "trash", (SESSIONS,),
       "Move the session under the cursor to the trash, after a question; what protects it is told.", bar=11,
       when=_can_trash),
    _a("session.untrash", "u", "undo", (SESSIONS,),
       "Bring back the session that was moved to the trash here last.", bar=14, when=_can_take_back),
    _a("list.open", "enter", "open", (SESSIONS, CLEANUP),
       "Open the session under the cursor on the dashboard.", bar=2, when=_needs_session),
    _a("list.filter", "slash", "filter", (SESSIONS,),
       "Show only sessions with a text in their name, note, preset, state or tags.", bar=5),
    _a("list.sort", "o", "sort", (SESSIONS,), "Sort another way.", bar=6),
    _a("trial.run", "enter", "run", (VALIDATE,),
       "Run the proof under the cursor, after those that wait.", bar=1, when=_can_prove),
    _a("trial.all", "a", "run all", (VALIDATE,), "Run all, one after the other.", bar=2, when=_can_prove),
    _a("trial.form", "f", "quick/full", (VALIDATE,),
       "Switch between the quick and the full form of what is run next.", bar=3),
    _a("trial.cancel", "x", "cancel", (VALIDATE,),
       "End the proof that runs, with all that it started, and let none of the others begin.", bar=4,
       when=_proves),
    _a("list.down", "j down", "down", LISTS, "Down one line."),
    _a("list.up", "k up", "up", LISTS, "Up one line."),
    _a("list.top", "g home", "top", LISTS, "To the first line."),
    _a("list.bottom", "G end", "bottom", LISTS, "To the last line."),
    _a("list.half_down", "ctrl+d pagedown", "half page down", LISTS, "Down half a page."),
    _a("list.half_up", "ctrl+u pageup", "half page up", LISTS, "Up half a page."),
    _a("form.start", "ctrl+s f5", "start", (NEW,),
       "Make the session and start it.", bar=1, when=_can_start),
    _a("form.next", "tab down", "next field", (NEW,), "Go to the next field.", bar=2),
    _a("form.previous", "shift+tab up", "previous field", (NEW,), "Go to the field before."),
    _a("form.right", "right", "next choice", (NEW,), "Take the next choice, where there is one."),
    _a("form.left", "left", "choice before", (NEW,), "Take the choice before."),
    _a("go.sessions", "L", "sessions", (DASHBOARD, CLEANUP), "Go to the list of all sessions.", bar=6),
    _a("go.cleanup", "C", "cleanup", MAIN,
       "Go to the cleanup: what may go, what would go now, and the trash.", bar=12),
    _a("go.validate", "T", "validate", MAIN,
       "Prove on this machine what Forge promises, and look at the machine itself.", bar=13),
    _a("go.dashboard", "d escape", "dashboard", (SESSIONS, CLEANUP, VALIDATE),
       "Go back to the dashboard.", bar=3),
    _a("go.back", "escape", "back", (NEW,), "Leave without making a session.", bar=4),
    _a("go.help", "question_mark f1", "help", EVERYWHERE, "Show what every key does here.", bar=7),
    _a("go.palette", "ctrl+p", "commands", EVERYWHERE, "Find an action by its name."),
    _a("go.quit", "q ctrl+q ctrl+c", "quit", EVERYWHERE,
       "Quit; a run in this program is asked about first.", bar=7),
    _a("help.close", "escape q question_mark f1 enter", "close", (HELP,), "Close the help.", bar=1),
    _a("quit.stop", "s", "stop", (QUIT,), "Stop at the next step with a checkpoint, then quit."),
    _a("quit.keep", "b", "keep training", (QUIT,), "Quit the screen and keep training without it."),
    _a("quit.cancel", "escape n q ctrl+c ctrl+q", "cancel", (QUIT,), "Stay here."),
    _a("quit.next", "down j tab right", "next choice", (QUIT,), "To the next choice."),
    _a("quit.previous", "up k shift+tab left", "choice before", (QUIT,), "To the choice before."),
    _a("quit.choose", "enter", "choose", (QUIT,), "Do what is marked."),
    _a("labels.save", "enter ctrl+s", "save", (LABELS,), "Keep what stands in the fields."),
    _a("labels.cancel", "escape", "cancel", (LABELS,), "Leave everything as it is."),
    _a("labels.next", "tab down", "next field", (LABELS,), "Go to the next field."),
    _a("labels.previous", "shift+tab up", "field before", (LABELS,), "Go to the field before."),
    _a("confirm.yes", "y", "yes", (CONFIRM,), "Do it."),
    _a("confirm.no", "escape n q enter ctrl+c ctrl+q", "no", (CONFIRM,), "Leave everything as it is."),
)
# fmt: on

APP_KEYS = frozenset({"ctrl+q", "ctrl+c"})
"""Keys that the application itself listens to, on every screen and inside every field."""

BY_ID = {action.id: action for action in ACTIONS}

KEY_NAMES = {
    "question_mark": "?",
    "slash": "/",
    "escape": "esc",
    "pagedown": "pgdn",
    "pageup": "pgup",
}


def on_screen(screen: str) -> tuple[Action, ...]:
    """The actions of one screen, in the table's order."""
    return tuple(action for action in ACTIONS if screen in action.screens)


def key_bar(screen: str) -> tuple[Action, ...]:
    """The actions that the key bar of a screen shows, the most important first."""
    return tuple(sorted((a for a in on_screen(screen) if a.bar), key=lambda action: action.bar))


def display(key: str) -> str:
    """A key as a person knows it."""
    return KEY_NAMES.get(key, key)


def display_keys(action: Action) -> str:
    """All keys of an action: `1-9` for the digits, otherwise one after the other."""
    if action.id == "view.phase":
        return "1-9"
    return " ".join(display(key) for key in action.keys)


def bar_key(action: Action, screen: str) -> str:
    """The one key that the key bar shows; on a form not one that would be typed into a field."""
    if action.id == "view.phase":
        return "1-9"
    untyped = (key for key in action.keys if screen != NEW or len(display(key)) > 1)
    return display(next(untyped, action.keys[0]))


def elsewhere(key: str, screen: str) -> str | None:
    """What a key does on another screen, as a hint for somebody who pressed it here."""
    for action in ACTIONS:
        if key in action.keys and screen not in action.screens and action.screens[0] in EVERYWHERE:
            return f"{display(key)} ({action.title}) works on the {_titles(action.screens)} screen"
    return None


def _titles(screens: Iterable[str]) -> str:
    return " and ".join(SCREEN_TITLES[screen] for screen in screens if screen in SCREEN_TITLES)
