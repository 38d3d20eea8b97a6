"""One fact about the machine, as `forge doctor` tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What was found, whether it is as it should be, and what to do."""

    what: str
    state: State
    found: str
    remedy: str = ""
    """What to do; empty where nothing has to be done."""
