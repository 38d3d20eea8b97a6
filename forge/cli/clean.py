"""`forge clean`: the plan of a cleanup, and its execution after a yes.

Nothing moves before its plan was shown. The command is part of `forge --help`, so what it works with is
imported inside it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forge import text, units
from forge.cli.console import put, put_json, put_table, say
from forge.cli.exits import ends
from forge.cli.options import Home, Json

if TYPE_CHECKING:
    from forge.engine import Engine
    from forge.retention import Outcome, Plan, SessionCleanupPolicy

CLEAN_EXAMPLES = """\b
examples:
  forge clean                             show what would go, then ask
  forge clean --keep 5 --max-total-gb 20 --yes
  forge clean --keep none --max-age-days 90 --keep-tag paper --json

Only into the trash: "forge trash undo" brings a session back, "forge trash empty" frees the room.
Live, pinned and tagged sessions stay, and so do those that a kept model descends from.
"""
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


@ends
def clean(
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="N|none", help="Keep the newest so many.")
    ] = None,
    max_age_days: Annotated[
        str | None,
        typer.Option("--max-age-days", metavar="DAYS|none", help="Age from which one may go."),
    ] = None,
    max_failed_age_days: Annotated[
        str | None,
        typer.Option("--max-failed-age-days", metavar="DAYS|none", help="The same if failed."),
    ] = None,
    max_total_gb: Annotated[
        str | None,
        typer.Option("--max-total-gb", metavar="GB|none", help="Most room of all."),
    ] = None,
    keep_tag: Annotated[
        list[str] | None, typer.Option("--keep-tag", metavar="TAG", help="Keep these; repeatable.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
    home: Home = None,
) -> int:
    """Move old sessions to the trash, by a plan that is shown first.

    Limits that are not given are those of the home: "forge config settings" shows and changes them.
    Without a terminal and without --yes the plan is only shown.
    """
    limits = {
        "max_sessions_retained": keep,
        "max_age_days": max_age_days,
        "max_failed_age_days": max_failed_age_days,
        "max_total_gb": max_total_gb,
    }
    return _clean(limits, keep_tag, home, yes=yes, json=json)


def _clean(
    limits: dict[str, str | None], tags: list[str] | None, home: Path | None, *, yes: bool, json: bool
) -> int:
    from forge.cli.home import engine_of
    from forge.config import load_settings
    from forge.home import resolve_home
    from forge.retention import Survey, decide, plan

    found_home = resolve_home(home)
    policy = _policy(load_settings(found_home.settings).retention.policy, limits, tags)
    if not found_home.registry.exists():
        return _answer(decide(Survey((), {}), policy, time.time()), json=json)
    with engine_of(home) as engine:
        engine.reconcile()
        found = plan(engine.home, engine.registry, policy, time.time())
        return _answer(found, json=json, yes=yes, engine=engine)


def _answer(found: Plan, *, json: bool, yes: bool = False, engine: Engine | None = None) -> int:
    """Show a plan, carry it out where that is agreed to, and tell what became of it."""
    if not json:
        _show_plan(found)
    outcome = None
    if engine is not None and found.to_trash:
        question = f"Move {sessions(len(found.to_trash))} to the trash?"
        outcome = _execute(engine, found) if agreed(yes, json, question, "moved") else None
    if json:
        put_json(_plan_facts(found, outcome))
    elif outcome is not None:
        _tell_outcome(outcome)
    return 0


def _policy(
    base: SessionCleanupPolicy, limits: dict[str, str | None], tags: list[str] | None
) -> SessionCleanupPolicy:
    """The policy of the home with what was given in its place."""
    from pydantic import ValidationError

    from forge.retention import SessionCleanupPolicy

    given = {name: None if text == "none" else text for name, text in limits.items() if text is not None}
    keep = {} if tags is None else {"keep_tags": tuple(tags)}
    try:
        return SessionCleanupPolicy.model_validate({**base.model_dump(), **given, **keep})
    except ValidationError as error:
        problems = [
            ": ".join([*map(str, problem["loc"]), problem["msg"].removeprefix("Value error, ")])
            for problem in error.errors()
        ]
        raise typer.BadParameter("; ".join(problems)) from error


def agreed(yes: bool, json: bool, question: str, done: str) -> bool:
    """Whether it is to be done: said before, or answered now; the answer by default is no."""
    if yes:
        return True
    if json or not _interactive():
        say(f"nothing was {done}; --yes does it")
        return False
    if typer.confirm(text.clean(question), default=False, err=True):
        return True
    say(f"nothing was {done}.")
    return False


def _interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _execute(engine: Engine, found: Plan) -> Outcome:
    from forge.retention import execute

    return execute(engine.home, engine.registry, found, actor=actor(), now=time.time())


def _show_plan(found: Plan) -> None:
    if not found.decisions:
        say("there is no session, so there is nothing to clean.")
        return
    cells = [
        [d.verdict, d.session.name, d.session.state, units.size(d.bytes), d.reason] for d in found.decisions
    ]
    put_table(cells, ("VERDICT", "NAME", "STATE", "SIZE", "REASON"), right=(3,))
    go, stay = found.to_trash, found.to_keep
    put(
        f"{sessions(len(go))} to the trash ({units.size(found.bytes_to_trash)}), "
        f"{len(stay)} kept ({units.size(found.bytes_to_keep)})"
    )


def _tell_outcome(outcome: Outcome) -> None:
    for decision, why in outcome.skipped:
        say(f"{decision.session.name} stays: {why}")
    put(f"{sessions(len(outcome.trashed))} moved to the trash ({units.size(outcome.bytes)})")
    say('"forge trash undo NAME" brings one back; "forge trash empty" frees the room')


def _plan_facts(found: Plan, outcome: Outcome | None) -> dict[str, Any]:
    return {
        "policy": found.policy.model_dump(),
        "sessions": [
            {"session": d.session.id, "name": d.session.name, "state": d.session.state, "verdict": d.verdict,
             "reason": d.reason, "bytes": d.bytes}
            for d in found.decisions
        ],
        "bytes_to_trash": found.bytes_to_trash,
        "bytes_to_keep": found.bytes_to_keep,
        "executed": None if outcome is None else {
            "trashed": [d.session.id for d in outcome.trashed],
            "skipped": [{"session": d.session.id, "reason": why} for d, why in outcome.skipped],
            "bytes": outcome.bytes,
        },
    }  # fmt: skip


def sessions(count: int) -> str:
    """`1 session`, `4 sessions`."""
    return "1 session" if count == 1 else f"{count} sessions"


def actor() -> str:
    """Who is written down in the audit."""
    return f"forge (pid {os.getpid()})"
