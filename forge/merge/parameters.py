"""Parameters of a merge method, each declared with its bounds.

Whatever a recipe may say about a method is declared here, so that all of it can be checked.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

REQUIRED = object()
"""Default of a parameter that a recipe has to give."""

Values = Mapping[str, Any]
"""Keyword arguments of a method: one value, or one for each model."""


@dataclass(frozen=True)
class Parameter:
    """A declared parameter of a method."""

    name: str
    doc: str
    kind: Literal["number", "flag", "choice"] = "number"
    per_model: bool = False
    default: Any = REQUIRED
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    argument: str = ""
    """Name of the argument, where `name` is a word of Python's; "-" for a key that changes nothing here."""

    @property
    def keyword(self) -> str:
        """The argument of the function."""
        return self.argument or self.name

    def problem(self, value: Any) -> str:
        """What is wrong with a value; empty when nothing is."""
        if self.kind == "flag":
            return "" if isinstance(value, bool) else f"expected true or false, got {shown(value)}"
        if self.kind == "choice":
            return (
                "" if value in self.choices else f"expected {' or '.join(self.choices)}, got {shown(value)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"expected a finite number, got {shown(value)}"
        if not self.low <= value <= self.high:
            bounds = f"{self.low:g} to {self.high:g}" if self.high < math.inf else f"at least {self.low:g}"
            return f"{value:g} is out of range: {bounds}"
        return ""


# A document may refer to itself, so it is never printed in full.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def shown(value: Any, quote: bool = True) -> str:
    """A value of a document for a message, shortened."""
    return value if isinstance(value, str) and not quote and len(value) < 60 else _SHORT.repr(value)
