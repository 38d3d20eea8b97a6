"""The phase as a whole: what it hands on, what it reports, and whom it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from forge.config import PipelineConfig
from forge.contract import LoadedModel, PhaseResult
from forge.errors import MergeError
from forge.merge import Parents
from forge.phases import EvoMerge
from forge.phases.evomerge.measure import Examiner, Measures, Question
from forge.phases.evomerge.report import FITTEST
from tests.plain import PlainContext
from tests.unit.phases.branches import Family, written

Evolved = tuple[PhaseResult, PlainContext]


def changed(config: PipelineConfig, **changes: Any) -> PipelineConfig:
    return config.model_copy(update={"evomerge": config.evomerge.model_copy(update=changes)})


def test_a_merge_is_better_than_its_parents(evolved: Evolved) -> None:
    result, _ = evolved
    figures = result.report["figures"]
    assert figures["fittest"]["bpb"] < figures["parent"]["bpb"]
    assert figures[figures["ships"]]["fitness"] >= figures["average"]["fitness"]
    assert result.models[0].metrics["test_bpb"] == figures[figures["ships"]]["bpb"]
    rows = {row["label"]: row for row in result.report["rows"]}
    assert {"fittest merge", "uniform average", "best parent", "random search", "shared base"} <= rows.keys()
    assert sum("handed on" in row["note"] for row in rows.values()) == 1
    assert result.report["verdict"]


def test_what_is_handed_on_is_what_was_measured(evolved: Evolved, family: Family) -> None:
    result, _ = evolved
    (model,) = result.models
    with Parents(family.folders) as parents:
        expected = dict(parents.compose(model.card["recipe"]))
    weights = model.module.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], torch.from_numpy(value)) for name, value in expected.items())
    assert set(model.parents) <= {"reasoning", "memory", "speed"}
    assert sum(model.parents.values()) == pytest.approx(1.0)


def test_every_candidate_is_kept_with_its_genome_and_lineage(evolved: Evolved, family: Family) -> None:
    result, ctx = evolved
    everyone = ctx.population.known()
    assert len(everyone) == family.config.evomerge.total_steps == result.report["candidates"]
    assert all(one.fitness is not None and 0 < one.fitness < 1 and one.recipe for one in everyone.values())
    assert result.models[0].card["candidate"] in everyone
    for one in everyone.values():
        known = {"reasoning", "memory", "speed", *everyone}
        assert one.parents
        assert set(one.parents) <= known
        assert bool(one.genome) == (one.kind in ("search", "random"))


def test_a_generation_is_a_point_of_every_series(evolved: Evolved, family: Family) -> None:
    _, ctx = evolved
    sizes = family.config.evomerge.batches
    ends = [sum(sizes[:n]) for n in range(2, 5)]
    for name in ("best", "mean", "worst", "diversity", "val"):
        assert list(ctx.series[name]) == ends, name
    assert list(ctx.series["fitness"]) == list(range(1, sum(sizes) + 1))
    best, mean, worst = (list(ctx.series[name].values()) for name in ("best", "mean", "worst"))
    assert all(b >= m >= w for b, m, w in zip(best, mean, worst, strict=True))
    assert best == sorted(best)


def test_nothing_that_is_known_is_measured_again(
    evolved: Evolved, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, before = evolved
    ctx = family.context()
    ctx.population = before.population

    def ask(self: Examiner, question: Question, real: Any = Examiner.ask) -> Measures:
        assert question.split == "test", "measured again"
        found: Measures = real(self, question)
        return found

    monkeypatch.setattr(Examiner, "ask", ask)
    again = EvoMerge(family.config).run(ctx, family.models)
    assert again.report == result.report


def test_other_conditions_are_measured_anew(evolved: Evolved, family: Family) -> None:
    _, before = evolved
    config = changed(family.config, eval_tokens=128, generations=0, combinations=False)
    ctx = family.context(config)
    ctx.population = before.population
    known = set(before.population.known())
    EvoMerge(config).run(ctx, family.models)
    assert len(set(ctx.population.known()) - known) == config.evomerge.total_steps
    for key in set(ctx.population.known()) - known:
        before.population.all.pop(key)  # type: ignore[attr-defined]


def test_a_search_that_finds_nothing_hands_on_the_average_and_says_so(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(self: Examiner, question: Question, real: Any = Examiner.ask) -> Measures:
        found: Measures = real(self, question)
        if question.split == "test":
            return found
        # The control: selection by a fitness that has nothing to do with the model.
        noise = hash(str(question.recipe)) % 1000 / 1000
        return Measures({name: items * 0 + noise for name, items in found.items.items()})

    monkeypatch.setattr(Examiner, "ask", ask)
    ctx = family.context()
    result = EvoMerge(family.config).run(ctx, family.models)
    if result.report["figures"]["ships"] != FITTEST:
        assert ("control", result.report["verdict"]) in ctx.events
    figures = result.report["figures"]
    assert figures[figures["ships"]]["fitness"] >= figures["average"]["fitness"]


def test_models_of_different_bases_are_refused(family: Family) -> None:
    stranger = replace(family.models[0], id="stranger", card={"parents": {"other": 1.0}})
    with pytest.raises(MergeError, match=r"do not come from one base: stranger from other; memory from base"):
        EvoMerge(family.config).run(family.context(), [stranger, *family.models[1:]])
    orphan = replace(family.models[0], card={})
    with pytest.raises(MergeError, match="reasoning from nothing"):
        EvoMerge(family.config).run(family.context(), [orphan, *family.models[1:]])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_it_takes_three_models(family: Family, count: int) -> None:
    with pytest.raises(MergeError, match=f"three models of one base and was given {count}"):
        EvoMerge(family.config).run(family.context(), family.models[:count])


def test_another_shape_is_refused_by_its_key(family: Family) -> None:
    wide = replace(family.models[2], config=family.config.model.model_copy(update={"d_ff": 48}))
    with pytest.raises(MergeError, match=r"model.d_ff is not the same in reasoning and speed"):
        EvoMerge(family.config).run(family.context(), [*family.models[:2], wide])


def with_weights(family: Family, place: Path, change: Any) -> tuple[PlainContext, list[LoadedModel]]:
    """The family with one tensor of a branch changed."""
    module = family.models[1].module
    import copy

    other = copy.deepcopy(module)
    with torch.no_grad():
        change(other)
    folder = written(place / "odd", other, family.config, family.models[1].tokenizer, {"base": 1.0})  # type: ignore[arg-type]
    ctx = family.context()
    ctx.folders = {**family.folders, "memory": folder}
    return ctx, list(family.models)


def test_weights_that_are_not_finite_are_refused_by_name(family: Family, tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model.blocks[1].ffn.up.weight[0, 0] = torch.inf

    ctx, models = with_weights(family, tmp_path, change)
    with pytest.raises(MergeError, match=r"blocks.1.ffn.up.weight holds NaN or infinite"):
        EvoMerge(family.config).run(ctx, models)
    assert ctx.population.known() == {}


def test_another_tokenizer_is_refused(family: Family, tmp_path: Path) -> None:
    ctx, models = with_weights(family, tmp_path, lambda model: None)
    path = ctx.folders["memory"] / "tokenizer.json"
    path.write_text(path.read_text().replace('"!"', '"¡"', 1))
    with pytest.raises(MergeError, match=r"tokenizer.json: model.vocab.* is not the same"):
        EvoMerge(family.config).run(ctx, models)
