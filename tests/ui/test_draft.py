"""The form's checks: every problem is found and named, and what is valid would run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.config import BRANCHES, MemoryConfig, PipelineConfig, RecursionConfig, contradictions
from forge.config.check import parameter_count
from forge.home import Home
from forge_tui import draft
from forge_tui.services import estimates
from tests.ui.seed import BRANCHED, PRESETS, TINY


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_valid_as_it_stands(preset: str) -> None:
    checked = draft.check(draft.from_preset(preset))
    assert checked.problems == {}
    assert checked.config == PRESETS[preset]


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"name": "x" * 61}, "name", "at most 60"),
        ({"name": "a\x1b[31m"}, "name", "can be printed"),
        ({"corpus": "wikipedia"}, "corpus", "stdlib, or files"),
        ({"corpus": "text:"}, "corpus", "a pattern is missing"),
        ({"seed": ""}, "seed", "a number is needed"),
        ({"seed": "1.5"}, "seed", "a whole number is needed"),
        ({"seed": "99999999999"}, "seed", "less than"),
        ({"steps": {"pretrain": "many", "forging": "200"}}, "pretrain", "a whole number is needed"),
        ({"steps": {"pretrain": "500", "forging": "0"}}, "forging", "greater than or equal to 1"),
        ({"vram": "lots"}, "vram", "a number of GB"),
        ({"vram": "-6"}, "vram", "more than 0"),
        ({"vram": "inf"}, "vram", "more than 0"),
        ({"vram": "nan"}, "vram", "more than 0"),
    ],
)
def test_each_kind_of_problem_stands_beside_its_field(
    change: dict[str, object], field: str, said: str
) -> None:
    checked = draft.check(replace(draft.from_preset("tiny"), **change))  # type: ignore[arg-type]
    assert checked.config is None
    assert list(checked.problems) == [field]
    assert said in checked.problems[field]


def test_all_problems_are_told_together() -> None:
    bad = draft.Draft("tiny", "x" * 99, "nothing", "", {"pretrain": "", "forging": "1"}, "-")
    assert set(draft.check(bad).problems) == {"name", "corpus", "seed", "pretrain", "vram"}


def test_what_does_not_fit_together_is_found() -> None:
    # The warm-up is longer than the phase.
    checked = draft.check(replace(draft.from_preset("tiny"), steps={"pretrain": "5", "forging": "200"}))
    assert checked.config is None
    assert set(checked.problems) <= {"pretrain", "preset"}
    assert checked.problems


def test_what_is_typed_arrives_in_the_configuration() -> None:
    typed = draft.Draft(
        "tiny", "", " text:/data/*.txt ", "7", {"pretrain": "2,000", "forging": "1_000"}, "6.5"
    )
    config = draft.check(typed).config
    assert config is not None
    assert config.data.corpus == "text:/data/*.txt"
    assert (config.seed, config.pretrain.steps, config.forging.steps) == (7, 2000, 1000)
    assert config.runtime.vram_budget_gb == 6.5
    assert contradictions(config) == []


@given(st.integers(0, 10**11))
def test_numbers_are_read_as_people_write_them(number: int) -> None:
    for text in (f"{number}", f" {number:,} ", f"{number:_}", f"{number:,}".replace(",", " ")):
        assert draft.whole_number(text) == number


@pytest.mark.parametrize("text", ["", "-1", "1e3", "1.0", "1,00", "12,34", "٣", "0x10", "9" * 13])
def test_what_is_no_whole_number(text: str) -> None:
    assert draft.whole_number(text) is None


def test_estimates_are_sums() -> None:
    e = draft.estimate(TINY)
    assert e.parameters == parameter_count(TINY)
    assert e.steps == 700
    assert e.tokens == 700 * 16 * 128
    assert e.memory_bytes > draft.TORCH_BYTES + 4 * 4 * e.parameters
    alone = TINY.model_copy(update={"forging": TINY.forging.model_copy(update={"control": False})})
    # A control is a second model with all that belongs to it, in memory and in the checkpoints.
    assert e.memory_bytes - draft.estimate(alone).memory_bytes == pytest.approx(4 * 4 * e.parameters)
    assert e.disk_bytes - draft.estimate(alone).disk_bytes == pytest.approx(4 * 3 * 4 * e.parameters)


def test_memory_and_recursion_cost_activations() -> None:
    def estimated(**changes: object) -> float:
        return draft.estimate(
            TINY.model_copy(update={"model": TINY.model.model_copy(update=changes)})
        ).memory_bytes

    once, twice = (RecursionConfig(latent_steps=1, supervision=n) for n in (1, 2))
    assert estimated() < estimated(memory=MemoryConfig(chunk=32)) < estimated(recursion=once)
    assert estimated(recursion=once) < estimated(recursion=twice)


def test_cognate_costs_its_branches_too() -> None:
    config = BRANCHED
    cognate = config.cognate
    e = draft.estimate(config)
    assert e.steps == cognate.steps + sum(cognate.branch(name).steps for name in BRANCHES)
    assert e.tokens == e.steps * cognate.batch_size * config.data.seq_len
    plain = config.model_copy(update={"phases": ("pretrain",)})
    # Three more models for good, and in each of the checkpoints with the best one.
    kept = config.runtime.keep_checkpoints + 1
    filtered = kept if cognate.grokfast else 0
    more = e.disk_bytes - draft.estimate(plain).disk_bytes
    assert more == pytest.approx((3 + 3 * kept + filtered) * 4 * e.parameters)


def test_branches_that_go_deeper_do_not_compare() -> None:
    config = BRANCHED

    def changed(**changes: object) -> PipelineConfig:
        reasoning = config.cognate.reasoning.model_copy(update=changes)
        return config.model_copy(
            update={"cognate": config.cognate.model_copy(update={"reasoning": reasoning})}
        )

    assert draft.comparable(config, changed(lr_ratio=0.1))
    assert not draft.comparable(config, changed(cycles=5))
    assert not draft.comparable(config, changed(steps=1000))


def test_only_the_same_shape_compares() -> None:
    longer = TINY.model_copy(update={"pretrain": TINY.pretrain.model_copy(update={"steps": 9000})})
    assert draft.comparable(TINY, longer)
    assert draft.comparable(TINY, TINY.model_copy(update={"seed": 3, "name": "mine"}))
    assert not draft.comparable(TINY, PRESETS["25m"])
    for change in ({"micro_batch": 8}, {"batch_size": 32}, {"optimizer": "muon"}):
        other = TINY.model_copy(update={"pretrain": TINY.pretrain.model_copy(update=change)})
        assert not draft.comparable(TINY, other)


def test_time_is_measured_in_earlier_sessions_or_unknown(seeded: Callable[[str], Home]) -> None:
    found = estimates.duration(seeded("finished"), TINY)
    assert found is not None
    assert found[1] == "swift-otter-12"
    assert math.isclose(found[0], 121.3 + 74.9)
    longer = TINY.model_copy(update={"pretrain": TINY.pretrain.model_copy(update={"steps": 1000})})
    found = estimates.duration(seeded("finished"), longer)
    assert found is not None
    assert math.isclose(found[0], 2 * 121.3 + 74.9)
    assert estimates.duration(seeded("finished"), PRESETS["25m"]) is None
    assert estimates.duration(seeded("running"), TINY) is None


def test_time_is_unknown_where_nothing_can_be_read(fresh_home: Home) -> None:
    assert estimates.duration(fresh_home, TINY) is None
    fresh_home.registry.write_bytes(b"not a registry" * 100)
    assert estimates.duration(fresh_home, TINY) is None
