"""A session's folder that the registry does not know gets its row back.

It is what remains when a crash hit the making of a session, or when the registry was put back from an older
copy. It may hold the only checkpoints of a run, so it is never deleted for being unknown.
"""

from __future__ import annotations

from ulid import ULID

from forge.home import Home, SessionPaths
from forge.registry import Connection, Registry, State, cleanup, edits
from forge.retention import folders
from forge.retention.tidy import SETTLED_SECONDS

_ACTOR = "reconcile"


def adopt(registry: Registry, home: Home, paths: SessionPaths, now: float) -> str | None:
    """Give a folder in `sessions/` or `trash/` its session; its name, or none while it is too young.

    Raises:
        NotOursError: it is not a session's folder.
        ConfigError: its `session.yaml` cannot be read.
    """
    from forge.config import read_frozen

    folders.check(paths.root)
    if now - paths.config.lstat().st_mtime < SETTLED_SECONDS:
        return None
    config = read_frozen(paths.config)
    phases = [(phase, getattr(config, phase).total_steps) for phase in config.phases]
    session_id, size = paths.root.name, folders.measure(paths.root).bytes
    made = min(ULID.from_str(session_id).timestamp, now)
    ran = folders.has_checkpoint(paths.root)
    path = str(paths.root.relative_to(home.root))

    def add(c: Connection) -> str:
        name = edits.create_session(
            c, id=session_id, name=f"recovered-{config.name}", preset=config.name, phases=phases, now=made
        )
        if ran:
            for state in (State.RUNNING, State.INTERRUPTED):
                edits.set_session_state(c, session_id, state, now=now)
        edits.add_event(
            c, session_id, kind="adopted", message="its folder was found without a record of it", now=now
        )
        cleanup.add_audit(c, actor=_ACTOR, action="adopt", now=now, session_id=session_id, path=path,
                          bytes=size, detail=name)  # fmt: skip
        if paths.root.parent == home.trash:
            cleanup.trash_session(c, session_id, actor=_ACTOR, reason="found in the trash", bytes=size,
                                  path=path, now=now)  # fmt: skip
        return name

    return registry.write(add)
