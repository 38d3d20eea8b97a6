"""What a proof found: figures with their thresholds, and the verdict that follows from them.

A control is a figure that shows the measurement can see a failure. Where a control does not behave, the proof
has proved nothing, and says that instead of passing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from forge import units

Verdict = Literal["pass", "fail", "cannot-run"]
Relation = Literal["<=", ">=", "==", ">", "<"]

_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Figure:
    """One measured number, and the threshold that it has to keep to."""

    name: str
    value: float
    unit: str = ""
    relation: Relation | None = None
    """How it must stand to `bound`; none only reports."""
    bound: float | None = None
    control: bool = False
    """It comes from something broken on purpose, and its threshold says that this showed."""
    low: float | None = None
    """95 % interval, where it was measured several times."""
    high: float | None = None
    doubt: str = ""
    """Why it says nothing about its threshold, such as an interval that reaches far to both of its sides."""

    @property
    def kept(self) -> bool | None:
        """Whether it keeps to its threshold; none without one. NaN keeps to none."""
        if self.relation is None or self.bound is None:
            return None
        return _HOLDS[self.relation](self.value, self.bound)

    @property
    def word(self) -> str:
        """`kept` as a word: `ok`, `missed`, or `unclear` where nothing can be said."""
        return "unclear" if self.doubt else {None: "", True: "ok", False: "missed"}[self.kept]

    @property
    def shown(self) -> str:
        """The number with its unit, and its interval."""
        text = _with_unit(self.value, self.unit)
        if self.low is None or self.high is None:
            return text
        return f"{text} ({self.low:.1f} to {self.high:.1f})"

    @property
    def threshold(self) -> str:
        """`<= 5 %`; empty without one."""
        if self.relation is None or self.bound is None:
            return ""
        # What it was counted among is no unit: it would stand beside both numbers.
        unit = "" if self.unit.startswith(("in ", "of ")) else self.unit
        return f"{self.relation.replace('==', '=')} {_with_unit(self.bound, unit)}"


@dataclass(frozen=True)
class Result:
    """How one proof ended."""

    proof: str
    figures: tuple[Figure, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    """Why it could not run, or what broke; else what a person should know about the verdict."""
    failed: Literal["", "broke", "cannot-run"] = ""
    """It ended before all figures were taken: something broke, or this machine cannot run it."""

    @property
    def verdict(self) -> Verdict:
        """`fail` where a threshold is missed for sure, `cannot-run` where nothing was proved."""
        missed = [each for each in self.figures if each.kept is False]
        if self.failed == "broke" or any(not (each.control or each.doubt) for each in missed):
            return "fail"
        unclear = missed or any(each.doubt for each in self.figures)
        return "cannot-run" if unclear or self.failed else "pass"

    @property
    def word(self) -> str:
        """The verdict for a person, who wants to know whether it ran at all."""
        if self.verdict == "cannot-run":
            return "cannot run" if self.failed else "cannot tell"
        return {"pass": "pass", "fail": "FAIL"}[self.verdict]

    @property
    def why(self) -> str:
        """The reason behind a verdict other than `pass`, in one sentence; else a remark, or nothing."""
        if self.reason:
            return self.reason
        for each in self.figures:
            if each.kept is False and not (each.control or each.doubt):
                return f"{each.name} is {each.shown}, and must be {each.threshold}"
        for each in self.figures:
            if each.kept is False and each.control and not each.doubt:
                return (
                    f"the control did not fail as it must, so nothing is proved: {each.name} is "
                    f"{each.shown}, and must be {each.threshold}"
                )
        return next((each.doubt for each in self.figures if each.doubt), "")

    def document(self) -> dict[str, Any]:
        """For a program; `parse` reads it back."""
        return {
            "proof": self.proof,
            "verdict": self.verdict,
            "why": self.why,
            "seconds": round(self.seconds, 2),
            "reason": self.reason,
            "failed": self.failed,
            "figures": [
                {**asdict(each), "threshold": each.threshold, "kept": each.kept} for each in self.figures
            ],
        }


def parse(document: Mapping[str, Any]) -> Result:
    """A result from what `Result.document` gave.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    known = {each.name for each in fields(Figure)}
    figures = []
    for entry in document["figures"]:
        values = {name: value for name, value in entry.items() if name in known}
        for name in ("value", "low", "high"):
            # JSON has no NaN and no infinity; they come as strings.
            values[name] = None if values[name] is None else float(values[name])
        figures.append(Figure(**values))
    return Result(
        proof=str(document["proof"]),
        figures=tuple(figures),
        seconds=float(document["seconds"]),
        reason=str(document["reason"]),
        failed=document["failed"],
    )


def _with_unit(value: float, unit: str) -> str:
    # Whole numbers are counts: 0 errors are not 0.000 of them.
    whole = value == value and abs(value) < 1e6 and value == int(value)
    text = f"{int(value):,}" if whole else units.figure(value, 3)
    return f"{text} {unit}".rstrip()
