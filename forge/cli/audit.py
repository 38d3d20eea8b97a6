"""`forge audit`: whether everything in the home is as it was promised to be.

It looks and changes nothing, unless it is asked to finish first what a crash left half done.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from forge import units
from forge.cli.console import put, put_json, put_table, say
from forge.cli.progress import Percentage
from forge.home import Home, resolve_home


def audit(home: Path | None, *, json: bool, quiet: bool, repair: bool) -> int:
    """Print the findings; returns 1 when there are any."""
    from forge.audit import audit as look

    chosen = resolve_home(home)
    if not chosen.registry.exists():
        from forge.errors import NotFoundError

        raise NotFoundError(f'there is no session in {chosen.root}; start one with "forge run tiny".')
    repaired = _repair(chosen) if repair else []
    progress = Percentage("checking", shown=not quiet and not json and sys.stderr.isatty())
    try:
        found = look(chosen, progress=progress.show)
    finally:
        progress.clear()
    if json:
        put_json({"clean": found.clean, "repaired": repaired, **asdict(found)})
        return 0 if found.clean else 1
    for sentence in repaired:
        put(sentence)
    if found.findings:
        put_table([[f.kind, f.where, f.what] for f in found.findings], ("WHAT", "WHERE", "FOUND"))
        put("")
    for remedy in dict.fromkeys((f.kind, f.remedy) for f in found.findings):
        put(f"{remedy[0]}: {remedy[1]}")
    looked = (
        f"{found.sessions} sessions, {found.checkpoints} checkpoints, {found.models} models, "
        f"{units.count(found.points)} points of their logs, {units.size(found.bytes)} read"
    )
    put(f"{looked}: {f'{len(found.findings)} wrong' if found.findings else 'nothing is wrong'}")
    return 0 if found.clean else 1


def _repair(home: Home) -> list[str]:
    from forge.cli.home import engine_of
    from forge.retention import reconcile

    with engine_of(home.root) as engine:
        buried = [f"{engine.session(i).name} is interrupted: its owner is gone" for i in engine.reconcile()]
        result = reconcile(home, engine.registry)
    for problem in result.problems:
        say(problem)
    return [*buried, *result.repaired]
