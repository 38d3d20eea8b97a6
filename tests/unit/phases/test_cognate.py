"""Cognate: one base, three branches that begin where it ended, each measured on the speciality of all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forge.config import BRANCHES, Branch, PipelineConfig
from forge.contract import LoadedModel, PhaseResult
from forge.data import prepare
from forge.engine import Engine
from forge.errors import TrainingError
from forge.evals import Examination, HeldOut
from forge.home import Home
from forge.models.decoder import Decoder
from forge.optim.trainer import Trainer
from forge.phases import Cognate
from forge.phases.cognate.trainer import STAGES, CognateTrainer, stage_of
from forge.registry import queries
from tests.plain import PlainContext
from tests.unit.engine.killing import killed, outcome, run_to_end

MODULAR, PERMUTATIONS = "task:modular:400", "task:permutations:400"
STEPS: dict[Branch, int] = {"base": 4, "reasoning": 3, "memory": 3, "speed": 3}


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    """A micro model with every part, and three corpora."""
    folder = tmp_path_factory.mktemp("prose")
    for number in range(12):
        words = random.Random(number).choices(("forge", "loses", "no", "run", "at", "all"), k=200)
        (folder / f"{number}.txt").write_text(" ".join(words), "utf-8")
    text = {"corpus": f"text:{folder}/*.txt"}
    branch = {"steps": 3, "warmup_steps": 1}
    return PipelineConfig.model_validate(
        {
            "seed": 3,
            "phases": ["cognate"],
            "model": {"vocab_size": 290, "d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32,
                      "max_seq_len": 32, "window": 4, "document_end": 0, "persistent_tokens": 1,
                      "memory": {"n_heads": 2, "chunk": 8},
                      "recursion": {"supervision": 2, "halting": "ponder"}},
            "data": {"seq_len": 24, "dev_fraction": 0.2, "test_fraction": 0.2, "mix": {
                "base": [text, {"corpus": MODULAR}, {"corpus": PERMUTATIONS}],
                "reasoning": [{"corpus": MODULAR}, {**text, "weight": 0.5}],
                "memory": [{"corpus": PERMUTATIONS}],
                "speed": [text],
            }},
            "runtime": {"device": "cpu", "threads": 1, "checkpoint_every": 2, "keep_checkpoints": 2},
            "cognate": {"steps": 4, "warmup_steps": 1, "batch_size": 4, "micro_batch": 4, "eval_every": 2,
                        "eval_tokens": 128, "report_tokens": 512, "learning_rate": 1e-2,
                        "reasoning": {**branch, "cycles": 2}, "memory": {**branch, "memory_chunk": 4},
                        "speed": {**branch, "halting_prior": 0.9}},
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(config: PipelineConfig, cache: Path) -> tuple[PhaseResult, PlainContext]:
    torch.set_num_threads(1)
    context = PlainContext(config, 0, cache)
    return Cognate(config).run(context, ()), context


@pytest.fixture(scope="module")
def done(config: PipelineConfig, cache: Path) -> tuple[PhaseResult, PlainContext]:
    """One whole phase; no test may change it."""
    return run(config, cache)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def held_out(config: PipelineConfig, cache: Path, **changes: Any) -> HeldOut:
    shards = prepare(config.data, config.model.vocab_size, cache)
    return replace(HeldOut(shards, config.data.seq_len, torch.device("cpu")), **changes)


def test_it_hands_on_three_models_of_one_base(
    config: PipelineConfig, done: tuple[PhaseResult, PlainContext]
) -> None:
    result, context = done
    base, *branches = result.models
    assert [model.name for model in result.models] == list(STAGES)
    assert [dict(model.parents) for model in result.models] == [{}, *[{"base": 1.0}] * 3]
    assert {model.tokenizer for model in branches} == {base.tokenizer}
    shapes = [{n: t.shape for n, t in model.module.state_dict().items()} for model in result.models]
    assert all(shape == shapes[0] for shape in shapes)
    assert len({tuple(weights(model.module).tolist()) for model in result.models}) == 4
    # One architecture, to be merged: the knobs of a branch are for its training.
    assert all(model.config == config.model for model in result.models)
    assert all(model.module.config == config.model for model in result.models)
    assert [model.card["speciality"] for model in result.models] == [None, *BRANCHES]
    assert context.events == []


def test_every_step_is_logged_once_and_the_branches_side_by_side(
    done: tuple[PhaseResult, PlainContext],
) -> None:
    series = done[1].series
    assert list(series["loss"]) == list(range(1, 14))
    for number, branch in enumerate(BRANCHES):
        # Their curves begin together, where the base ended.
        own = [series["loss"][step] for step in range(5 + 3 * number, 8 + 3 * number)]
        assert series[f"loss_{branch}"] == dict(zip(range(5, 8), own, strict=True))
    assert list(series["val"]) == [2, 4, 6, 7, 9, 10, 12, 13]
    assert all(1 <= value <= 2 for value in series["stops"].values())
    assert all(0 < value < 1 for value in series["gate"].values())
    both = zip(series["stop_1"].values(), series["stop_2"].values(), strict=True)
    assert all(first + second == pytest.approx(1) for first, second in both)


def test_each_stage_reads_its_own_mix_in_an_order_of_its_own(
    config: PipelineConfig, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, tuple[str, ...]]] = []
    real = __import__("forge.phases.cognate", fromlist=["train_batch"]).train_batch

    def spy(data: Any, seed: int, step: int, size: int, length: int, shares: Any) -> Any:
        seen.append((seed, step, tuple(share.corpus for share in shares)))
        return real(data, seed, step, size, length, shares)

    monkeypatch.setattr("forge.phases.cognate.train_batch", spy)
    run(config, cache)
    assert [step for _, step, _ in seen] == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert len({seed for seed, _, _ in seen}) == 4
    mixes = [config.data.shares(stage) for stage in STAGES for _ in range(STEPS[stage])]
    assert [corpora for _, _, corpora in seen] == [tuple(s.corpus for s in mix) for mix in mixes]


def test_every_model_is_measured_on_every_speciality(
    config: PipelineConfig, cache: Path, done: tuple[PhaseResult, PlainContext]
) -> None:
    found = done[0].report["figures"]["specialities"]
    assert found["reasoning"]["corpora"] == [MODULAR]
    assert found["memory"]["corpora"] == [PERMUTATIONS]
    assert found["speed"]["corpora"] == [config.data.mix.speed[0].corpus]
    for produced in done[0].models:
        model = produced.module
        assert isinstance(model, Decoder)
        for name in ("reasoning", "memory"):
            place = held_out(config, cache, corpus=found[name]["corpora"][0])
            measured = found[name]["models"][produced.name]
            assert measured["bits_per_byte"] == place.bits_per_byte(model, "test", 512)
            score = Examination(place, "test").ask(model)
            assert measured["accuracy"]["mean"] == pytest.approx(float(np.mean(score.corrected)))
            assert measured["accuracy"]["low"] <= measured["accuracy"]["mean"] <= measured["accuracy"]["high"]
            assert produced.metrics[f"{name}_bpb"] == measured["bits_per_byte"]
        # After one step, which costs all the same.
        place = held_out(config, cache, corpus=found["speed"]["corpora"][0], steps=1)
        fast = found["speed"]["models"][produced.name]
        assert fast["bits_per_byte"] == place.bits_per_byte(model, "test", 512)
        assert fast["accuracy"] is None
        assert fast["bits_per_byte"] != replace(place, steps=None).bits_per_byte(model, "test", 512)


def test_the_report_counts_who_is_best_at_home(done: tuple[PhaseResult, PlainContext]) -> None:
    report = done[0].report
    table = report["figures"]["specialities"]
    home = 0
    for name in BRANCHES:
        bits = {branch: table[name]["models"][branch]["bits_per_byte"] for branch in BRANCHES}
        assert table[name]["best"] == min(bits, key=bits.__getitem__)
        home += table[name]["best"] == name
    assert report["figures"]["best_at_home"] == home
    first, *rows = report["rows"]
    assert first["value"] == f"{home} of 3"
    assert [row["label"] for row in rows] == [f"{one}: {name}" for one in BRANCHES for name in STAGES]
    assert sum(row["note"].endswith("best") for row in rows) == 3


def test_steps_belong_to_stages(config: PipelineConfig) -> None:
    expected = [(stage, own) for stage in STAGES for own in range(STEPS[stage])]
    assert [stage_of(step, config.cognate) for step in range(13)] == expected
    assert config.cognate.total_steps == 13 == Cognate(config).total_steps(())


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(1, 290, (4, 25), generator=torch.Generator().manual_seed(step))
    return tokens[:, :-1], tokens[:, 1:]


def steps(trained: CognateTrainer, config: PipelineConfig, which: range) -> list[float]:
    losses = []
    for step in which:
        stage, own = stage_of(step, config.cognate)
        trained.enter(stage)
        losses.append(trained.train_step(own, *batches(step)).loss)
    return losses


@pytest.fixture
def fresh(config: PipelineConfig, cache: Path) -> Iterator[Any]:
    """Makes trainers that have done nothing."""

    def make() -> CognateTrainer:
        base = Decoder(config.model).initialise(torch.Generator().manual_seed(1))
        return CognateTrainer(config, PlainContext(config, 0, cache), base)

    return make  # type: ignore[return-value]


def test_each_stage_trains_with_its_own_knobs(config: PipelineConfig, fresh: Any) -> None:
    trained = fresh()
    found = {}
    for stage in STAGES:
        trained.enter(stage)
        model = trained.model.config
        found[stage] = (model.recursion.cycles, model.recursion.halting_prior, model.memory.chunk)
    assert found == {
        "base": (1, 0.4, 8),
        "reasoning": (2, 0.4, 8),
        "memory": (1, 0.4, 4),
        "speed": (1, 0.9, 8),
    }


def test_every_branch_begins_with_the_base_and_leaves_it(config: PipelineConfig, fresh: Any) -> None:
    trained = fresh()
    steps(trained, config, range(4))
    base = weights(trained.model).clone()
    for number, branch in enumerate(BRANCHES):
        trained.enter(branch)
        assert torch.equal(weights(trained.model), base)
        steps(trained, config, range(4 + 3 * number, 7 + 3 * number))
        assert not torch.allclose(weights(trained.model), base, atol=1e-3)
    models = trained.models()
    assert torch.equal(weights(models["base"]), base)
    assert len({tuple(weights(model).tolist()) for model in models.values()}) == 4


@pytest.mark.parametrize("at", [1, 3, 4, 5, 7, 8, 9, 10, 11])
def test_a_state_of_any_step_goes_on_as_if_nothing_had_been(
    config: PipelineConfig, fresh: Any, at: int
) -> None:
    straight, first, second = fresh(), fresh(), fresh()
    losses = steps(straight, config, range(13))
    steps(first, config, range(at))
    second.load_state_dict(first.state_dict())
    assert steps(second, config, range(at, 13)) == losses[at:]
    for stage, model in second.models().items():
        assert torch.equal(weights(model), weights(straight.models()[stage]))


def test_it_can_go_back_to_a_stage_before(config: PipelineConfig, fresh: Any) -> None:
    trained = fresh()
    losses = steps(trained, config, range(6))
    state = {**trained.state_dict()}
    kept = torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, state)
    losses += steps(trained, config, range(6, 11))
    assert trained.stage == "speed"
    trained.load_state_dict(kept)
    assert (trained.stage, list(trained.finished)) == ("reasoning", ["base"])
    assert steps(trained, config, range(6, 11)) == losses[6:]


def test_who_was_slowed_down_stays_slow_in_the_next_stage(config: PipelineConfig, fresh: Any) -> None:
    def rates(times: int) -> list[float]:
        trained = fresh()
        trained.slow_down(times)
        found = []
        for step in range(5):
            stage, own = stage_of(step, config.cognate)
            trained.enter(stage)
            found.append(trained.train_step(own, *batches(step)).lr)
        return found

    assert rates(1) == pytest.approx([rate / 2 for rate in rates(0)])


def test_a_skipped_update_is_counted_over_all_stages(
    config: PipelineConfig, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = fresh()
    steps(trained, config, range(4))
    real = Trainer._gradient
    monkeypatch.setattr(Trainer, "_gradient", lambda *_: (float("nan"), 1.0))
    steps(trained, config, range(4, 6))
    assert trained.skipped_in_row == 2
    monkeypatch.setattr(Trainer, "_gradient", real)
    steps(trained, config, range(6, 8))
    other = fresh()
    other.load_state_dict(trained.state_dict())
    assert (trained.skipped_total, other.skipped_total, other.skipped_in_row) == (2, 2, 0)


def test_killed_inside_the_second_branch_and_between_two_it_is_the_same(
    config: PipelineConfig, tmp_path: Path
) -> None:
    engine = Engine(Home(tmp_path / "home"))
    straight, session = engine.create(config), engine.create(config)
    assert engine.host(straight).wait(120)
    expected = outcome(engine, straight)
    assert len({name.split(" ")[1] for name in expected.weights}) == 4
    # Memory takes the steps 8 to 10, and there are checkpoints at 8 and 10.
    assert killed(engine.home, session, "step", 10)
    assert killed(engine.home, session, "step", 3)
    run_to_end(engine.home, session)
    assert outcome(engine, session) == expected
    resumed = [
        e.message for e in engine.registry.fetch(queries.latest_events(session, 100)) if e.kind == "resume"
    ]
    assert [text.split(";")[0] for text in sorted(resumed)] == ["resumed at step 10", "resumed at step 8"]
    rows = {row.name: row.id for row in engine.registry.fetch(queries.models(session, 10))}
    lineage = {name: engine.registry.fetch(queries.model_parents(id_)) for name, id_ in rows.items()}
    assert lineage == {"base": [], **{branch: [(rows["base"], 1.0)] for branch in BRANCHES}}
    engine.shutdown()


def test_what_it_hands_on_can_be_evolved(config: PipelineConfig, tmp_path: Path) -> None:
    search = {"groups": 1, "generations": 0, "combinations": False, "random_search": False,
              "eval_tokens": 128, "eval_items": 5, "report_tokens": 128, "report_items": 5}  # fmt: skip
    both = {**config.model_dump(), "phases": ["cognate", "evomerge"], "evomerge": search}
    engine = Engine(Home(tmp_path / "home"))
    session = engine.create(PipelineConfig.model_validate(both))
    run = engine.host(session)
    assert run.wait(120)
    assert run.failure is None
    rows = engine.registry.fetch(queries.models(session, 10))
    assert [row.phase for row in rows] == ["evomerge", *["cognate"] * 4]
    engine.shutdown()


def test_it_takes_no_model(config: PipelineConfig, cache: Path, parent: LoadedModel) -> None:
    with pytest.raises(TrainingError, match="takes no model"):
        Cognate(config).run(PlainContext(config, 0, cache), [parent])
