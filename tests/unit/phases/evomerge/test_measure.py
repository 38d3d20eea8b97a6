"""Fitness is bounded and means something; a candidate's measures are its own, wherever it is measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forge.data import open_shards
from forge.errors import CorpusError
from forge.evals import HeldOut
from forge.executor import open_executor
from forge.models.decoder import Decoder
from forge.phases import EvoMerge
from forge.phases.evomerge import founders
from forge.phases.evomerge.measure import Bench, Examiner, Measures, Question, examiner, fitness
from forge.phases.evomerge.report import AVERAGE, BASE, FITTEST, PARENT, decide, gain
from tests.unit.phases.branches import Family


@pytest.fixture(scope="module")
def bench(family: Family) -> Bench:
    ctx = family.context()
    from forge.data import prepare

    shards = prepare(family.config.data, family.config.model.vocab_size, family.cache)
    return EvoMerge(family.config)._bench(ctx, "base", family.models, shards)


@pytest.mark.parametrize(
    ("measures", "expected"),
    [
        ({"bpb a": 1.0}, 0.5),
        ({"bpb a": 1.0, "bpb b": 3.0}, 0.25),
        ({"bpb a": 0.0}, 1.0),
        ({"bpb a": math.nan, "bpb b": 1.0}, 0.0),
        ({"bpb a": math.inf}, 0.0),
        ({"bpb a": 1.0, "accuracy a": 0.8}, 0.65),
        ({"bpb a": 1.0, "accuracy a": 0.8, "accuracy b": 0.2}, 0.5),
        ({"bpb a": 1.0, "accuracy a": -0.4}, 0.25),
        ({"bpb a": 1.0, "accuracy a": math.nan}, 0.25),
        ({"bpb a": 1e6, "accuracy a": 1.0}, 0.5),
    ],
)
def test_fitness_is_bounded(measures: dict[str, float], expected: float) -> None:
    assert fitness(measures) == pytest.approx(expected)


def by_mean(one: Measures) -> float:
    """Fitness as it would be if luck counted."""
    return fitness(one.means)


def test_luck_in_guessing_is_no_fitness() -> None:
    bits = np.ones(8)
    generator = np.random.default_rng(0)
    # Sixty questions that are guessed, chance taken off: half of them are -1 and half are 1.
    guessed = [Measures({"bpb a": bits, "accuracy a": generator.choice([-1.0, 1.0], 60)}) for _ in range(100)]
    luck, certain = (max(each) - 0.25 for each in (map(by_mean, guessed), (one.fitness for one in guessed)))
    assert luck > 0.12
    assert certain < 0.6 * luck
    assert sum(one.fitness > 0.25 for one in guessed) < 10 < sum(by_mean(one) > 0.25 for one in guessed)
    known = Measures({"bpb a": bits, "accuracy a": np.array([1.0] * 55 + [-1.0] * 5)})
    assert known.fitness > 0.55
    assert Measures({"bpb a": bits, "accuracy a": np.ones(60)}).fitness == 0.75


def test_a_parent_measures_as_it_does_alone(bench: Bench, family: Family) -> None:
    shards = open_shards(bench.shards)
    assert shards is not None
    found = Examiner(bench).ask(Question(founders.parent("memory"))).means
    model = family.models[1].module
    assert isinstance(model, Decoder)
    assert len(found) == 3
    for name, value in found.items():
        corpus = name.removeprefix("bpb ")
        held_out = HeldOut(shards, bench.seq_len, torch.device("cpu"), "fp32", corpus)
        assert value == pytest.approx(held_out.bits_per_byte(model, "dev", bench.tokens["dev"]), rel=1e-6)
    # Each branch knows its own words best.
    assert min(found, key=found.__getitem__).endswith("memory/*.txt")


def test_what_came_before_changes_nothing(bench: Bench) -> None:
    question = Question(founders.parent("speed"))
    fresh = Examiner(bench).ask(question).means
    used = Examiner(bench)
    used.ask(Question(founders.parent("memory")))
    assert used.ask(question).means == fresh


def test_dev_and_test_are_not_the_same_text(bench: Bench) -> None:
    worker = Examiner(bench)
    recipe = founders.parent("base")
    assert worker.ask(Question(recipe, "dev")).means != worker.ask(Question(recipe, "test")).means


def test_processes_find_what_this_one_finds(bench: Bench) -> None:
    questions = [Question(founders.parent(model)) for model in ("reasoning", "memory", "speed")]
    here, there = (
        [measures.means for measures in executor.run(questions, lambda *_: None)]
        for executor in (
            open_executor("inprocess", examiner, bench),
            open_executor("processes", examiner, bench, 2),
        )
    )
    assert here == there


def test_tokens_that_are_gone_are_said_so(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="are gone or damaged"):
        Examiner(replace(bench, shards=tmp_path))


def measures(*bits: float) -> Measures:
    return Measures({"bpb a": np.array(bits), "bpb b": np.array(bits[:2])})


@pytest.mark.parametrize(
    ("fittest", "average", "parent", "ships"),
    [(1.0, 1.1, 1.2, FITTEST), (1.1, 1.1, 1.2, AVERAGE), (1.2, 1.1, 1.2, AVERAGE), (1.2, 1.1, 1.0, PARENT),
     (1.0, 1.1, 0.9, PARENT)],
)  # fmt: skip
def test_the_better_one_ships(fittest: float, average: float, parent: float, ships: str) -> None:
    found = {FITTEST: measures(fittest, fittest), AVERAGE: measures(average, average),
             PARENT: measures(parent, parent), BASE: measures(2.0, 2.0)}  # fmt: skip
    assert decide(found).ships == ships


def test_a_gain_counts_corpora_alike_and_windows_in_pairs() -> None:
    better = Measures({"bpb a": np.arange(40.0), "bpb b": np.array([5.0, 9.0])})
    worse = Measures({"bpb a": np.arange(40.0) + 1.0, "bpb b": np.array([5.0, 9.0])})
    interval = gain({PARENT: worse, FITTEST: better}, PARENT, FITTEST)
    assert interval.mean == pytest.approx(worse.bits_per_byte - better.bits_per_byte) == pytest.approx(0.5)
    # Windows that are hard are hard for both: what they differ in has no part in it.
    assert 0.4 < interval.low < interval.high < 0.55
