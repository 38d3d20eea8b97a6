"""The pane and the chart of a phase that evolves: every line fits, the family leads back to the models."""

from __future__ import annotations

from typing import Any

import pytest

from forge.registry.rows import PointRow, StandingRow
from forge_tui.charts.series import Series
from forge_tui.present import curves, evolution
from forge_tui.state import Snapshot
from tests.ui.homes import HOSTILE
from tests.ui.seed import members


def standing(name: str, **changes: Any) -> StandingRow:
    given: dict[str, Any] = {
        "key": name, "generation": 0, "name": name, "kind": "plain", "method": "linear", "parents": ("M1",),
        "fitness": 0.3, **changes,
    }  # fmt: skip
    return StandingRow.model_validate(given)


def population(measured: int) -> tuple[StandingRow, ...]:
    found = [standing(one.pop("name"), **one) for one in members(measured)]
    return tuple(sorted(found, key=lambda one: -(one.fitness or 0.0)))


def text(rows: tuple[StandingRow, ...], width: int = 100) -> list[str]:
    return [line.plain.rstrip() for line in evolution.lines(Snapshot(population=rows), [], width)]


def test_it_says_how_many_are_measured_and_wait() -> None:
    assert text(population(26))[0] == "26 measured   3 wait"
    assert text(population(29))[0] == "29 measured"


def test_the_family_of_the_fittest_leads_back_to_the_models() -> None:
    assert text(population(29))[1:6] == [
        "fittest 3.2 0.2935",
        "└ 2.2 0.2914, 2.1 0.2905, 2.3 0.2905, 1 more",
        "  └ 1.2 0.2893, 1.1 0.2884, 1.3 0.2884, 1 more",
        "    └ start of the search 0.2890",
        "      └ reasoning, memory, speed",
    ]


def test_neither_a_parent_nor_the_control_is_the_fittest_merge() -> None:
    rows = (standing("parent a", kind="parent"), standing("random 1", kind="random"), standing("ties"))
    assert text(rows)[1] == "fittest ties 0.3000"
    assert not any("fittest" in line for line in text(rows[:2]))


def test_a_candidate_is_a_line_with_recipe_and_parents() -> None:
    lines = text(population(26))
    start = next(n for n, line in enumerate(lines) if line.startswith("fitness"))
    assert lines[start].split() == ["fitness", "gen", "candidate", "recipe,", "parents"]
    assert lines[start + 1].split() == ["0.2935", "3", "3.2", "dare_linear", "4", "of", "generation", "2"]
    assert "ties" in " ".join(lines)
    linear = next(line for line in lines if line.split()[2:4] == ["linear", "linear"])
    assert linear.endswith("linear  reasoning, memory, speed")
    assert lines[-1].startswith("waits")
    assert len(lines) == start + 1 + 29


def test_a_family_that_is_a_circle_ends() -> None:
    rows = (standing("a", parents=("b",), generation=2), standing("b", parents=("a",), generation=2))
    assert len(text(rows)) == 2 + 1 + 1 + 1 + 2


@pytest.mark.parametrize("width", [20, 30, 38, 60, 118])
def test_every_line_fits_whatever_it_is_called(width: int) -> None:
    rows = tuple(standing(name or "x", key=str(n), parents=(name,)) for n, name in enumerate(HOSTILE))
    for line in evolution.lines(Snapshot(population=rows), [], width):
        assert line.cell_len <= width
        assert "\x1b" not in line.plain


def view(*points: tuple[int, float]) -> Any:
    series = Series()
    series.extend([PointRow(step=step, value=value) for step, value in points])
    return series.view()


def test_the_chart_of_an_evolution_is_of_fitness() -> None:
    names = ("best", "mean", "worst", "diversity", "loss", "val")
    given = {name: view((11, 0.3), (17, 0.31)) for name in names}
    chart = curves.loss_chart(Snapshot(phase="evomerge", series=given))
    assert len(chart.traces) == 4
    assert [trace.right for trace in chart.traces] == [False, False, False, True]
    assert len(curves.loss_chart(Snapshot(phase="forging", series=given)).traces) == 3
    latest = {"best": 0.3, "mean": 0.2, "worst": 0.1, "diversity": 0.5, "loss": 3.0}
    shown = curves.legend(Snapshot(phase="evomerge", latest=latest), 100).plain
    assert shown == "━ best 0.3000  ━ mean 0.2000  ━ worst 0.1000  • diversity 0.5000"
    assert "first generation" in curves.legend(Snapshot(phase="evomerge"), 100).plain
