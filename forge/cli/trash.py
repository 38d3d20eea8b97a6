"""`forge trash`: what was cleaned away, the way back, and the end of it.

Nothing is deleted without a yes. The group is part of `forge --help`, so what it works with is imported
inside its commands.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forge import units
from forge.cli.clean import Yes, actor, agreed, sessions
from forge.cli.console import put, put_json, put_table, say
from forge.cli.exits import ends
from forge.cli.options import Home, Json

if TYPE_CHECKING:
    from forge.engine import Engine
    from forge.registry import SessionRow, TrashRow
    from forge.retention import Purged

trash_app = typer.Typer(
    help="See what was cleaned away, bring it back, or delete it for good.",
    invoke_without_command=True,
    rich_markup_mode=None,
    epilog="""\b
examples:
  forge trash
  forge trash undo swift-otter-12
  forge trash empty --older-than 7
  forge trash log
""",
)


@trash_app.callback()
def trash(context: typer.Context, json: Json = False, home: Home = None) -> None:
    """What is in the trash; the commands below bring it back or delete it."""
    if context.invoked_subcommand is None:
        ends(lambda: _list(home, json=json))()


@trash_app.command(
    "list",
    epilog="""\b
examples:
  forge trash list
  forge trash list --json
""",
)
@ends
def list_(json: Json = False, home: Home = None) -> int:
    """List the sessions in the trash, the last one first."""
    return _list(home, json=json)


@trash_app.command(
    epilog="""\b
examples:
  forge trash undo swift-otter-12
"""
)
@ends
def undo(
    session: Annotated[
        str, typer.Argument(metavar="SESSION", help="Name, id or the beginning of an id.", show_default=False)
    ],
    json: Json = False,
    home: Home = None,
) -> int:
    """Bring a session back, and those in the trash that it descends from."""
    from forge import retention
    from forge.cli.home import engine_of

    with engine_of(home) as engine:
        row = _find(engine, session)
        back = retention.undo(engine.home, engine.registry, row.id, actor=actor(), now=time.time())
    if json:
        put_json({"sessions": [{"session": r.id, "name": r.name, "state": r.state} for r in back]})
        return 0
    for kin in back[:-1]:
        put(f"{kin.name} is back, {kin.state}: {row.name} descends from it")
    put(f"{row.name} is back, {back[-1].state}")
    say(f"cleanup leaves it alone for {retention.GRACE_DAYS:g} days; pin it to keep it longer")
    return 0


@trash_app.command(
    epilog="""\b
examples:
  forge trash empty
  forge trash empty --older-than 7 --yes
"""
)
@ends
def empty(
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Only what has been there so long.")
    ] = 0.0,
    yes: Yes = False,
    json: Json = False,
    home: Home = None,
) -> int:
    """Delete what is in the trash for good, and free its room.

    Without a terminal and without --yes it only says what would go.
    """
    from forge.cli.home import engine_of
    from forge.retention import expired, purge

    with engine_of(home) as engine:
        _reconcile(engine)
        rows = expired(engine.registry, time.time(), older_than)
        if not rows and not json:
            say("there is nothing of that kind in the trash.")
            return 0
        if not json:
            _show_trash(rows)
        question = f"Delete {sessions(len(rows))} for good? There is no way back."
        purged = None
        if agreed(yes, json, question, "deleted"):
            purged = purge(engine.home, engine.registry, rows, actor=actor(), now=time.time())
        if json:
            put_json(_purge_facts(rows, purged))
        elif purged is not None:
            _tell_purged(purged)
    return 0


@trash_app.command(
    epilog="""\b
examples:
  forge trash log
  forge trash log -n 1000 --json
"""
)
@ends
def log(
    lines: Annotated[
        int, typer.Option("-n", "--lines", metavar="N", min=1, max=100_000, help="The last so many.")
    ] = 50,
    json: Json = False,
    home: Home = None,
) -> int:
    """What was moved, brought back and deleted, and by whom; it outlives the sessions."""
    from forge.cli.home import engine_of
    from forge.registry import cleanup

    with engine_of(home) as engine:
        rows = engine.registry.fetch(cleanup.audit(lines))
    if json:
        put_json({"audit": [row.model_dump() for row in rows]})
    elif rows:
        cells = [
            [units.date_time(row.at), row.action, units.size(row.bytes or 0), row.actor, row.detail]
            for row in reversed(rows)
        ]
        put_table(cells, ("WHEN", "WHAT", "SIZE", "BY", "SESSION"), right=(2,))
    else:
        say("nothing was moved or deleted yet.")
    return 0


def _list(home: Path | None, *, json: bool) -> int:
    from forge.cli.home import engine_of
    from forge.home import resolve_home
    from forge.registry import cleanup

    rows: list[TrashRow] = []
    if resolve_home(home).registry.exists():
        with engine_of(home) as engine:
            _reconcile(engine)
            rows = engine.registry.fetch(cleanup.trash())
    if json:
        put_json({"sessions": [row.model_dump() for row in rows], "bytes": sum(r.bytes for r in rows)})
    elif rows:
        _show_trash(rows)
    else:
        say("the trash is empty.")
    return 0


def _reconcile(engine: Engine) -> None:
    from forge.errors import ForgeError
    from forge.retention import reconcile

    try:
        result = reconcile(engine.home, engine.registry)
    except ForgeError as error:
        # What is listed is true all the same; it may only be about to change.
        say(str(error))
        return
    for sentence in (*result.repaired, *result.problems):
        say(sentence)


def _find(engine: Engine, text: str) -> SessionRow:
    from forge.errors import NotFoundError
    from forge.registry import State, queries

    rows = [r for r in engine.registry.fetch(queries.find_sessions(text)) if r.state is State.TRASHED]
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise NotFoundError(f'"{text}" fits {len(rows)} sessions in the trash; say more of the id.')
    raise NotFoundError(f'no session "{text}" is in the trash; "forge trash" lists what is.')


def _show_trash(rows: Sequence[TrashRow]) -> None:
    now = time.time()
    cells = [
        [row.name, row.state_before, units.size(row.bytes), units.since(now - row.trashed_at), row.reason]
        for row in rows
    ]
    put_table(cells, ("NAME", "WAS", "SIZE", "TRASHED", "REASON"), right=(2,))
    put(f"{sessions(len(rows))} in the trash ({units.size(sum(row.bytes for row in rows))})")


def _tell_purged(purged: Purged) -> None:
    for row, why in purged.skipped:
        say(f"{row.name} stays in the trash: {why}")
    put(
        f"{sessions(len(purged.sessions))} deleted; {units.size(purged.bytes)} freed "
        f"({units.size(purged.registry_bytes)} of it in the registry)"
    )
    if purged.notice:
        say(purged.notice)


def _purge_facts(rows: Sequence[TrashRow], purged: Purged | None) -> dict[str, Any]:
    return {
        "sessions": [row.model_dump() for row in rows],
        "executed": None if purged is None else {
            "deleted": [row.session_id for row in purged.sessions],
            "skipped": [{"session": row.session_id, "reason": why} for row, why in purged.skipped],
            "file_bytes": purged.file_bytes,
            "registry_bytes": purged.registry_bytes,
            "bytes": purged.bytes,
            "notice": purged.notice,
        },
    }  # fmt: skip
