"""What a screen or the command line asks the engine for. Never imports torch on the calling thread.

Control of a run takes one road, the `command` row, whoever hosts it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from ulid import ULID

from forge import durable
from forge.config import PipelineConfig, dump_yaml, read_frozen
from forge.config.corpus import require_corpora
from forge.engine import autopsy, names
from forge.engine.host import HostedRun
from forge.engine.kernel import Kernel
from forge.engine.lease import read_info
from forge.engine.process import ChildRun, spawn
from forge.errors import (
    ForgeError,
    HomeError,
    IllegalTransitionError,
    NotFoundError,
    RegistryError,
    SessionLeasedError,
)
from forge.home import MARKER, SCRATCH, Home, is_id
from forge.locks import is_held
from forge.registry import (
    LIVE,
    RESUMABLE,
    CommandRow,
    Connection,
    Error,
    Registry,
    SessionRow,
    State,
    edits,
    queries,
)
from forge.registry.query import fetch
from forge.registry.sqlite import open_reader
from forge.retention import folders

Where = Literal["thread", "process"]
"""Who runs a session: a thread of this process, or a process of its own."""


LIFE_SECONDS = 60.0
"""A live session without its lease file is not taken for dead before it has been silent for so long."""
_REAP_SECONDS = 1.0
"""A child gives its lease back a moment before its parent hears of its end."""


class Engine:
    """The engine of one process over one home."""

    def __init__(self, home: Home, kernel: Kernel | None = None) -> None:
        self.home = home
        self.registry = Registry.open(home)
        self._kernel = kernel or Kernel()
        self._hosted: HostedRun | None = None
        self._hosting = threading.RLock()
        self._children: dict[str, ChildRun] = {}
        """The last process that this one started for a session."""

    def create(self, config: PipelineConfig, name: str | None = None) -> str:
        """Add a session with its frozen configuration; returns its id.

        Raises:
            CorpusError: there is no text to train on; nothing was made.
            RegistryError: the registry is read-only, or does not answer.
            HomeError: the disk is full, or the home not writable.
        """
        require_corpora(config.data)
        session_id = str(ULID())
        paths = self.home.session(session_id)
        scratch = paths.root.with_name(f"{session_id}{SCRATCH}")
        if self.registry.read_only:
            raise RegistryError(
                f"no session can be made: {self.registry.notice or 'the registry is read-only.'}"
            )
        plan = [(phase, getattr(config, phase).total_steps) for phase in config.phases]
        label, now = name or names.random_name(), time.time()
        try:
            # Under its name only with its marker: a folder without one could never be told from a stranger's.
            durable.make_scratch(scratch)
            durable.write_file(scratch / MARKER, dump_yaml(config).encode())
            durable.sync_folder(scratch)
            durable.move(scratch, paths.root)
            self.registry.write(
                lambda c: edits.create_session(
                    c, id=session_id, name=label, preset=config.name, phases=plan, now=now
                )
            )
        except BaseException as error:
            for left in (scratch, paths.root):
                with contextlib.suppress(OSError):
                    durable.remove_tree(left)
            if isinstance(error, OSError):
                raise HomeError(
                    f"no session can be made in {self.home.sessions}: {error.strerror}. "
                    "Free some space, or choose another home with FORGE_HOME=/path."
                ) from error
            raise
        return session_id

    def start(self, session_id: str, where: Where | None = None) -> HostedRun | ChildRun:
        """Run a session where its configuration says, or `where`; returns once somebody holds its lease.

        A second one beside one that a thread of this process runs gets a process of its own.

        Raises:
            SessionLeasedError: somebody runs it.
            IllegalTransitionError: it is in a state from which nothing can go on.
            ForgeError: no process can be started.
        """
        with self._hosting:
            if self.hosted() is None and (where or self._wanted(session_id)) == "thread":
                return self.host(session_id)
            return self.spawn(session_id)

    def spawn(self, session_id: str) -> ChildRun:
        """Run a session in a process of its own; returns once that holds the lease.

        Raises:
            SessionLeasedError: somebody runs it.
            IllegalTransitionError: it is in a state from which nothing can go on.
            ForgeError: no process can be started.
        """
        session = self.session(session_id)
        folders.check_inside(self.home.session(session_id))
        child = spawn(self.home, session)
        self._children[session_id] = child
        return child

    def _wanted(self, session_id: str) -> Where:
        try:
            return read_frozen(self.home.session(session_id).config).runtime.host
        except ForgeError:
            # What is wrong with it the run itself finds, and records.
            return "thread"

    def host(self, session_id: str, on_end: Callable[[], None] = lambda: None) -> HostedRun:
        """Take the lease of a session and run it in a thread of this process.

        Raises:
            SessionLeasedError: somebody runs it, or this process runs another.
            IllegalTransitionError: it is in a state from which nothing can go on.
        """
        # Two screens' threads may ask at once, and one process trains one session.
        with self._hosting:
            # How an owner before us died is told by its lease, which becomes ours.
            self.reconcile()
            session = self.session(session_id)
            if (age := self._life(session)) is not None:
                raise SessionLeasedError(
                    f"nothing was started: the lease file of {session.name} is gone, but it was alive "
                    f"{age:.0f} s ago ({session.owner}). Whoever runs it puts the file back in seconds; if "
                    f"it has ended, try again in {LIFE_SECONDS:.0f} seconds."
                )
            if session.state is State.TRASHED:
                raise IllegalTransitionError(
                    f'{session.name} is in the trash; "forge trash undo {session.name}" brings it back.'
                )
            if self._hosted is not None and self._hosted.alive:
                raise SessionLeasedError(
                    f"this process already runs {self._hosted.session.name}; stop it, or start another forge."
                )
            folders.check_inside(self.home.session(session_id))
            run = HostedRun(self.home, self.registry, session)
            try:
                self.reconcile(holding=session_id)
                session = self.session(session_id)
                if session.state not in RESUMABLE:
                    raise IllegalTransitionError(
                        f"{session.name} is {session.state}; there is nothing left to run."
                    )
                run.start(on_end)
            except BaseException:
                run.abandon()
                raise
            self._hosted = run
            return run

    def request(self, session_id: str, kind: str, **args: object) -> CommandRow:
        """Ask whoever runs a session for `pause`, `resume`, `stop` or `checkpoint`.

        Raises:
            IllegalTransitionError: nobody runs it.
        """
        self.reconcile()
        now, who = time.time(), f"{_user()} (pid {os.getpid()})"
        return self.registry.write(
            lambda c: edits.request_command(c, session_id, kind, args=args, requested_by=who, now=now)
        )

    def resume(self, session_id: str, where: Where | None = None) -> HostedRun | ChildRun | None:
        """Go on with a session: a paused live one is told to, any other is started."""
        self.reconcile()
        session = self.session(session_id)
        if session.state in LIVE:
            self.request(session_id, "resume")
            return None
        return self.start(session_id, where)

    def hosted(self) -> str | None:
        """The session that a thread of this process runs now."""
        run = self._hosted
        return run.session.id if run is not None and run.alive else None

    @property
    def run(self) -> HostedRun | None:
        """The run that this process hosted last."""
        return self._hosted

    def session(self, session_id: str) -> SessionRow:
        """A session by id.

        Raises:
            NotFoundError: there is none.
        """
        row = self.registry.one(queries.session(session_id))
        if row is None:
            raise NotFoundError(f'no session with id {session_id}; "forge sessions" lists them.')
        return row

    def find(self, text: str | None) -> SessionRow:
        """The session that a person means: a name, an id or its beginning; none means the live or newest one.

        Raises:
            NotFoundError: none fits, or several do.
        """
        self.reconcile()
        if text is None:
            rows = self.registry.fetch(queries.owned_sessions()) or self.registry.fetch(
                queries.sessions(limit=1)
            )
            if not rows:
                raise NotFoundError('there is no session yet; start one with "forge run tiny".')
            if len(rows) > 1:
                names = ", ".join(row.name for row in rows)
                raise NotFoundError(f"{len(rows)} sessions run now: {names}. Say which one.")
            return rows[0]
        rows = self.registry.fetch(queries.find_sessions(text))
        exact = [row for row in rows if text in (row.name, row.id)]
        if exact or len(rows) == 1:
            return (exact or rows)[0]
        if rows:
            raise NotFoundError(f'"{text}" fits {len(rows)} sessions: {", ".join(row.name for row in rows)}.')
        raise NotFoundError(f'no session "{text}"; "forge sessions" lists them.')

    def reconcile(self, holding: str | None = None) -> list[str]:
        """Mark sessions whose owner died as interrupted; `holding` is one whose lease we hold ourselves.

        Returns:
            Ids of the sessions that are interrupted now and were not before.
        """
        if self.registry.read_only:
            return []
        dead = [
            row
            for row in self.registry.fetch(queries.owned_sessions())
            if row.id == holding or (not self._is_owned(row.id) and self._life(row) is None)
        ]
        buried = (partial(_bury, row=row, cause=self._cause(row)) for row in dead)
        return [row.id for row, bury in zip(dead, buried, strict=True) if self.registry.write(bury)]

    def _life(self, row: SessionRow) -> float | None:
        """How many seconds ago a session showed life whose lease file is gone, which proves nothing.

        None where the file is there, and where the sign is too old, or cannot be read.
        """
        if row.lease is None or not is_id(row.id):
            return None
        paths = self.home.session(row.id)
        if os.path.lexists(paths.lease) or not paths.metrics.exists():
            return None
        try:
            connection = open_reader(paths.metrics)
            try:
                beat = next(iter(fetch(connection, queries.heartbeat())), None)
            finally:
                connection.close()
        except (Error, ForgeError):
            return None
        age = None if beat is None else time.time() - beat.at
        return age if age is not None and 0 <= age < LIFE_SECONDS else None

    def _is_owned(self, session_id: str) -> bool:
        try:
            # An id that Forge did not make has no folder, so nobody can run it.
            return is_id(session_id) and is_held(self.home.session(session_id).lease)
        except OSError:
            # What cannot be looked at is left alone: a live session is never taken for dead.
            return True

    def _cause(self, row: SessionRow) -> str:
        """How the owner of a session ended, as far as it can be known."""
        info = read_info(self.home.session(row.id).lease) if is_id(row.id) else None
        child = self._children.get(row.id)
        if info is not None and info.token != row.lease:
            info = None
        # A session may have gone on elsewhere since this process started one for it.
        mine = child is not None and info is not None and info.pid == child.pid
        code = child.exit_code if child is not None and mine and child.wait(_REAP_SECONDS) else None
        return autopsy.cause(row.owner or "unknown", info, code, self._kernel)

    def shutdown(
        self, *, keep_training: bool = False, reason: str = "the program that hosted it was closed"
    ) -> None:
        """End this process's part: stop the hosted run with a checkpoint, or leave it running; then close."""
        run = self._hosted
        if run is not None and run.alive:
            if keep_training:
                return
            run.stop(reason)
            run.wait()
        if run is not None:
            run.settle()
        self.registry.close()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user needs no name.
        return f"user {os.getuid()}"


def _bury(c: Connection, row: SessionRow, cause: str) -> bool:
    """Take the lease from a dead owner; returns whether its session was live, and is interrupted now."""
    now = time.time()
    current = edits.get_session(c, row.id)
    # The owner may have ended, or another process resumed it, since we read the row.
    if current.lease != row.lease:
        return False
    if current.lease is not None:
        edits.drop_lease(c, row.id, current.lease)
    if current.state not in LIVE:
        return False
    for run in fetch(c, queries.phase_runs(row.id)):
        if run.state in LIVE:
            edits.set_phase_state(c, row.id, run.phase, State.INTERRUPTED, now=now)
    edits.set_session_state(c, row.id, State.INTERRUPTED, now=now)
    edits.add_event(
        c, row.id, kind="interrupted", message=cause, now=now, phase=row.phase, level="warning",
    )  # fmt: skip
    return True
