"""Verdicts: what passes, what fails, and what proves nothing."""

from __future__ import annotations

import json
import math

import pytest

from forge.cli.console import portable
from forge.validate import PROOFS, Figure, Result, find, progress
from forge.validate.result import parse

KEPT = Figure("errors", 0, "", "==", 0)
MISSED = Figure("errors", 3, "in 10 looks", "==", 0)
DOUBTED = Figure("cost", 3.0, "%", "<=", 2.0, low=0.1, high=4.0, doubt="the interval is wide")
CONTROL = Figure("errors of the broken one", 7, "", ">=", 1, control=True)
BLIND = Figure("errors of the broken one", 0, "", ">=", 1, control=True)


@pytest.mark.parametrize(
    ("figures", "failed", "verdict"),
    [
        ((KEPT, CONTROL), "", "pass"),
        ((KEPT, Figure("only told", 5.0)), "", "pass"),
        ((MISSED, CONTROL), "", "fail"),
        ((KEPT, BLIND), "", "cannot-run"),
        ((MISSED, BLIND), "", "fail"),
        ((DOUBTED, CONTROL), "", "cannot-run"),
        ((DOUBTED, MISSED), "", "fail"),
        ((), "cannot-run", "cannot-run"),
        ((), "broke", "fail"),
        ((Figure("loss", math.nan, "", "<=", 1.0),), "", "fail"),
    ],
)
def test_a_verdict_follows_from_the_figures(figures: tuple[Figure, ...], failed: str, verdict: str) -> None:
    assert Result("any", figures, failed=failed).verdict == verdict  # type: ignore[arg-type]


def test_it_is_said_whether_a_proof_ran_at_all() -> None:
    assert [Result("any", figures).word for figures in ((KEPT,), (MISSED,), (DOUBTED,), (BLIND,))] == [
        "pass", "FAIL", "cannot tell", "cannot tell",
    ]  # fmt: skip
    assert Result("any", failed="cannot-run").word == "cannot run"
    assert [figure.word for figure in (KEPT, MISSED, DOUBTED, Figure("told", 1.0))] == [
        "ok", "missed", "unclear", "",
    ]  # fmt: skip


def test_what_stands_behind_a_verdict_is_said() -> None:
    assert Result("any", (KEPT, MISSED)).why == "errors is 3 in 10 looks, and must be = 0"
    assert "the control did not fail as it must" in Result("any", (KEPT, BLIND)).why
    assert Result("any", (DOUBTED,)).why == "the interval is wide"
    assert Result("any", (KEPT,)).why == ""
    # What failed for sure comes before what is in doubt.
    assert Result("any", (DOUBTED, BLIND, MISSED)).why.startswith("errors is 3")


@pytest.mark.parametrize(
    ("figure", "shown", "threshold"),
    [
        (Figure("n", 0, "", "==", 0), "0", "= 0"),
        (Figure("ms", 12.3456, "ms", "<=", 1000), "12.3 ms", "<= 1,000 ms"),
        (Figure("%", 1.5, "%", "<=", 2.0, low=-1.26, high=3.0), "1.50 % (-1.3 to 3.0)", "<= 2 %"),
        (Figure("nan", math.nan), "NaN", ""),
        (Figure("n", 12345, "", ">", 0.5), "12,345", "> 0.500"),
    ],
)
def test_figures_are_shown_as_a_person_reads_them(figure: Figure, shown: str, threshold: str) -> None:
    assert (figure.shown, figure.threshold) == (shown, threshold)


def test_a_result_survives_json() -> None:
    odd = Result(
        "wal", (KEPT, DOUBTED, Figure("nan", math.nan), Figure("inf", math.inf)), 1.5, "why", "cannot-run"
    )
    back = parse(json.loads(json.dumps(portable(odd.document()), allow_nan=False)))
    assert back.figures[:2] == odd.figures[:2]
    assert math.isnan(back.figures[2].value)
    assert back.figures[3].value == math.inf
    assert (back.proof, back.seconds, back.reason, back.failed) == ("wal", 1.5, "why", "cannot-run")
    assert back.document()["verdict"] == odd.document()["verdict"] == "cannot-run"


@pytest.mark.parametrize("document", [{}, {"figures": [{}]}, {"figures": [{"name": "x", "value": "no"}]}, []])
def test_something_else_is_no_result(document: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        parse(document)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.404, 1.0, 1.7, -1.0])
def test_progress_is_a_line_that_is_understood(share: float) -> None:
    line = progress.line("wal", share, "steps of the run, pair 2 of 10")
    found = progress.parse(line + "\n")
    assert found == (round(min(max(share, 0.0), 1.0), 2), "steps of the run, pair 2 of 10")


@pytest.mark.parametrize("line", ["", "forge: no such proof", "wal 4000% x", "wal x% y"])
def test_other_lines_are_no_progress(line: str) -> None:
    assert progress.parse(line) is None


def test_every_proof_has_its_words_and_its_module() -> None:
    assert len({proof.name for proof in PROOFS}) == len(PROOFS) >= 5
    for proof in PROOFS:
        assert find(proof.name) is proof
        assert callable(proof.module().prove)
        assert proof.control
        assert 0 < proof.quick_seconds <= proof.seconds
