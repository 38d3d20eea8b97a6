"""`forge pin`, `unpin`, `tag` and `note`: what a person writes on a session, so that it is kept and found.

None of it counts as a change of the session: its age, by which cleanup goes, stays what it is. The commands
are part of `forge --help`, so what they work with is imported inside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from forge.cli import complete
from forge.cli.console import put, put_json
from forge.cli.exits import ends
from forge.cli.options import Home, Json, Session

if TYPE_CHECKING:
    from forge.engine import Engine
    from forge.registry import Connection, SessionRow

Named = Annotated[
    str,
    typer.Argument(
        metavar="SESSION",
        help="Name, id or the beginning of an id.",
        autocompletion=complete.sessions,
        show_default=False,
    ),
]


@ends
def pin(session: Session = None, json: Json = False, home: Home = None) -> int:
    """Pin a session, so that no cleanup takes it."""
    return _pin(session, home, pinned=True, json=json)


@ends
def unpin(session: Session = None, json: Json = False, home: Home = None) -> int:
    """Let cleanup take a pinned session again, when its time has come."""
    return _pin(session, home, pinned=False, json=json)


@ends
def tag(
    session: Named,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="TAG", help="Tags to add.", show_default=False)
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="TAG", help="Take it away; repeatable.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take away all that it has.")] = False,
    json: Json = False,
    home: Home = None,
) -> int:
    """Tag a session: to find it again, and to keep it from cleanup."""
    from forge.cli.home import engine_of
    from forge.registry import cleanup, fetch

    new, old = _tags(tags or ()), _tags(remove or ())

    def retag(c: Connection, row: SessionRow) -> None:
        before = set() if clear else {name for _, name in fetch(c, cleanup.tags([row.id]))}
        cleanup.set_tags(c, row.id, (before | new) - old)

    with engine_of(home) as engine:
        row = engine.find(session)
        if new or old or clear:
            row = _change(engine, row, retag)
        has = tags_of(engine, [row]).get(row.id, ())
        _tell(engine, row, f"{row.name}: {', '.join(has) or 'no tag'}", json=json)
    return 0


@ends
def note(
    session: Named,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What is to be remembered.", show_default=False)
    ] = None,
    json: Json = False,
    home: Home = None,
) -> int:
    """Write a note on a session."""
    from forge.cli.home import engine_of
    from forge.registry import edits

    with engine_of(home) as engine:
        row = engine.find(session)
        if text is not None:
            new = text.strip()
            row = _change(engine, row, lambda c, found: edits.set_note(c, found.id, new))
        _tell(engine, row, f"{row.name}: {row.note or 'no note'}", json=json)
    return 0


LABEL_COMMANDS: dict[Callable[..., None], str] = {
    pin: """\b
examples:
  forge pin
  forge pin swift-otter-12
""",
    unpin: """\b
examples:
  forge unpin swift-otter-12
""",
    tag: """\b
examples:
  forge tag swift-otter-12 paper best     two tags more
  forge tag swift-otter-12                the tags that it has
  forge tag swift-otter-12 --remove best
  forge clean --keep-tag paper            sessions with this tag stay
""",
    note: """\b
examples:
  forge note swift-otter-12 "first one that beat rounding"
  forge note swift-otter-12               the note that it has
  forge note swift-otter-12 ""            take it away
""",
}
"""The commands of this module, with their examples."""


def tags_of(engine: Engine, rows: Sequence[SessionRow]) -> dict[str, tuple[str, ...]]:
    """The tags of sessions, by id."""
    from forge.registry import cleanup

    return cleanup.grouped(engine.registry.fetch(cleanup.tags([row.id for row in rows])))


def _pin(session: str | None, home: Home, *, pinned: bool, json: bool) -> int:
    from forge.cli.home import engine_of
    from forge.registry import edits

    with engine_of(home) as engine:
        found = engine.find(session)
        row = _change(engine, found, lambda c, row: edits.set_pinned(c, row.id, pinned))
        how = "pinned: no cleanup takes it" if pinned else "not pinned: cleanup may take it"
        _tell(engine, row, f"{row.name} is {how}", json=json)
    return 0


def _tags(given: Sequence[str]) -> set[str]:
    tags = {tag.strip() for tag in given}
    # The policy's field on the screen writes them with commas between.
    if bad := [tag for tag in tags if not tag or "," in tag]:
        raise typer.BadParameter(f"{bad[0]!r} is no tag: a tag is not empty and has no comma.")
    return tags


def _change(
    engine: Engine, found: SessionRow, edit: Callable[[Connection, SessionRow], object]
) -> SessionRow:
    from forge.errors import ForgeError
    from forge.registry import State, edits

    def change(c: Connection) -> SessionRow:
        row = edits.get_session(c, found.id)
        if row.state is State.TRASHED:
            raise ForgeError(f'{row.name} is in the trash; "forge trash undo {row.name}" brings it back.')
        edit(c, row)
        return edits.get_session(c, row.id)

    return engine.registry.write(change)


def _tell(engine: Engine, row: SessionRow, sentence: str, *, json: bool) -> None:
    if json:
        tags = tags_of(engine, [row]).get(row.id, ())
        put_json({"session": row.id, "name": row.name, "pinned": row.pinned, "tags": tags, "note": row.note})
    else:
        put(sentence)
