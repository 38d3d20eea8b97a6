"""What the shell offers after Tab. Whatever goes wrong, it offers nothing and says nothing."""

from __future__ import annotations

from contextlib import closing

_MANY = 100


def sessions(incomplete: str) -> list[str]:
    """Names of sessions, newest first."""
    from forge.errors import ForgeError
    from forge.home import resolve_home
    from forge.registry import Error, fetch, open_reader, queries

    try:
        with closing(open_reader(resolve_home().registry)) as connection:
            rows = fetch(connection, queries.sessions(limit=_MANY))
    except (Error, ForgeError, OSError):
        return []
    # A shell would run what a name holds beside letters, digits and dashes.
    names = [row.name for row in rows if row.name.replace("-", "").replace("_", "").isalnum()]
    return [name for name in names if name.startswith(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Names of presets."""
    from forge.config import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


def states(incomplete: str) -> list[str]:
    """States of sessions."""
    from forge.registry import State

    return [state for state in State if state.startswith(incomplete)]


def levels(incomplete: str) -> list[str]:
    """Levels of log lines."""
    return [level for level in ("info", "warning", "error") if level.startswith(incomplete)]


def proofs(incomplete: str) -> list[str]:
    """Names of the proofs of `forge validate`."""
    from forge.validate import PROOFS

    return [proof.name for proof in PROOFS if proof.name.startswith(incomplete)]
