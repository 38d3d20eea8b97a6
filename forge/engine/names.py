"""Human names for sessions: `swift-otter-12`. A label only; the id is the ULID."""

from __future__ import annotations

import secrets

_ADJECTIVES = (
    "amber", "brave", "calm", "clever", "copper", "dapper", "eager", "gentle", "golden", "hardy", "keen",
    "lively", "mellow", "nimble", "patient", "quiet", "rapid", "silver", "steady", "sunny", "swift",
    "tidy", "vivid", "witty",
)  # fmt: skip
_NOUNS = (
    "badger", "beaver", "crane", "dolphin", "falcon", "ferret", "finch", "fox", "hare", "heron", "ibis",
    "lark", "lynx", "marten", "newt", "otter", "owl", "panda", "raven", "robin", "stoat", "swan", "tern",
    "wren",
)  # fmt: skip


def random_name() -> str:
    """A name that is easy to say and to type."""
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}-{secrets.randbelow(90) + 10}"
