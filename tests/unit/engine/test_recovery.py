"""Divergence: skip, count, go back, learn more slowly, and give up; killed anywhere, it ends the same way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from struct import unpack
from typing import Any

import pytest
import torch
from torch import Tensor

from forge.config import PipelineConfig
from forge.contract import PhaseContext, Recoverable
from forge.engine import Engine
from forge.engine.context import RETRY_SECONDS, EngineContext, PhaseStopped
from forge.errors import TrainingError
from forge.home import Home
from forge.optim.trainer import StepResult, Trainer
from forge.registry import Error as SqliteError
from forge.registry import MetricsWriter, State, queries
from tests.unit.engine.killing import assert_each_step_once, config, outcome, write_text
from tests.unit.engine.rig import STEPS, Rig, ScriptedControl, Sums, counting_config

Rule = Callable[[int, int], bool]
Points = dict[str, list[tuple[int, float]]]


class KilledError(BaseException):
    """The process is gone, as by `kill -9`."""


@dataclass
class Fragile(Sums):
    """Sums whose update is skipped where the rule (step, times slowed down) says so."""

    skipped_in_row: int = 0
    times: int = 0

    def slow_down(self, times: int) -> None:
        self.times = times

    def add(self, ctx: PhaseContext) -> float:
        """As optimisers do: the tensor stays, and what is in it changes."""
        tensor = self.vector
        drawn = super().add(ctx)
        self.vector = tensor.copy_(self.vector)
        return drawn

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "skipped": self.skipped_in_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.skipped_in_row = state["skipped"]


def fragile(ctx: EngineContext, rule: Rule, during: Callable[[int], object] = lambda step: None) -> Fragile:
    """Drive a phase of `STEPS` steps; what it logs depends on how often it was slowed down."""
    sums = Fragile()
    ctx.rng.python.getrandbits(64)
    for step in ctx.steps(STEPS, sums):
        if rule(step, sums.times):
            sums.skipped_in_row += 1
            ctx.warn("skipped", f"step {step}: update skipped")
            ctx.log(step + 1, loss=float("nan"))
        else:
            sums.skipped_in_row = 0
            ctx.log(step + 1, loss=sums.add(ctx) * 0.5**sums.times)
        during(step)
    return sums


def from_step(first: int, *, until_slowed: int = 1) -> Rule:
    """Diverges from a step on, until it was slowed down so often."""
    return lambda step, times: step >= first and times < until_slowed


@pytest.fixture
def rig(rig: Rig) -> Rig:
    """Goes back after two skips in a row, at most three times."""
    training = rig.config.pretrain.model_copy(update={"max_skipped": 2})
    rig.config = rig.config.model_copy(update={"pretrain": training})
    return rig


def reference(folder: Path, rule: Rule) -> tuple[Fragile, Points, list[str]]:
    """What an undisturbed run gives."""
    engine = Engine(Home(folder / "reference"))
    try:
        one = Rig(engine, engine.create(counting_config()))
        one.config = counting_config().model_copy(
            update={"pretrain": counting_config().pretrain.model_copy(update={"max_skipped": 2})}
        )
        with one.attempt() as ctx:
            sums = fragile(ctx, rule)
        return sums, one.points(), one.events("diverged")
    finally:
        engine.shutdown()


def epoch(rig: Rig) -> int:
    from forge.registry import fetch, metrics, open_reader

    reader = open_reader(rig.paths.metrics)
    try:
        return {row.name: row.epoch for row in fetch(reader, metrics.series("pretrain"))}["loss"]
    finally:
        reader.close()


def test_the_protocol_is_what_the_engine_looks_for() -> None:
    from forge.optim.trainer import Trainer
    from forge.phases.forging import ForgeTrainer

    assert isinstance(Fragile(), Recoverable)
    assert not isinstance(Sums(), Recoverable)
    for kind in (Trainer, ForgeTrainer):
        assert hasattr(kind, "slow_down")


def test_it_goes_back_to_the_last_checkpoint_and_on_more_slowly(rig: Rig) -> None:
    seen: list[int] = []
    with rig.attempt() as ctx:
        sums = fragile(ctx, from_step(6), seen.append)
        assert ctx.seconds == 0
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 8, 9, 10, 11]
    assert sums.times == 1
    assert rig.events("diverged") == [
        "diverged: 2 updates in a row skipped up to step 8; back to the checkpoint of step 4 with 0.5 of the "
        "learning rate (1 of at most 3 times)"
    ]
    assert len(rig.events("skipped")) == 2
    assert rig.log()[-1]["kind"] == "checkpoint"
    assert [line["step"] for line in rig.log() if line["kind"] == "diverged"] == [8]
    # Each step once, and none of those that were given up; the screen reads the curve anew.
    assert [step for step, _ in rig.points()["loss"]] == list(range(1, STEPS + 1))
    assert all(value == value for _, value in rig.points()["loss"])
    assert epoch(rig) == 1
    assert rig.checkpoints() == [8, 12]
    assert rig.session.state is State.INTERRUPTED  # the test's owner is gone


def test_what_it_goes_on_with_is_what_the_checkpoint_held(rig: Rig, tmp_path: Path) -> None:
    """The same as a run that was slow from that checkpoint on, and never diverged."""
    with rig.attempt() as ctx:
        sums = fragile(ctx, from_step(6))
    steady, points, _ = reference(tmp_path, lambda step, times: False)
    assert torch.equal(sums.vector, steady.vector)
    assert sums.total == steady.total
    halved = [value * (1 if step <= 4 else 0.5) for step, value in points["loss"]]
    assert [value for _, value in rig.points()["loss"]] == halved


def test_before_the_first_checkpoint_it_goes_back_to_the_start(rig: Rig) -> None:
    with rig.attempt() as ctx:
        sums = fragile(ctx, from_step(1))
    assert "back to the start with 0.5" in rig.events("diverged")[0]
    assert sums.times == 1
    assert [step for step, _ in rig.points()["loss"]] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("rule", [from_step(6), from_step(2, until_slowed=2), from_step(9, until_slowed=3)])
@pytest.mark.parametrize("kills", [(1,), (7,), (8,), (9,), (11,), (7, 9), (10, 3, 12), (9, 9, 9)])
def test_killed_anywhere_on_the_way_it_ends_the_same(
    rig: Rig, tmp_path: Path, rule: Rule, kills: tuple[int, ...]
) -> None:
    want, points, told = reference(tmp_path, rule)
    for kill in kills:
        left = kill

        def dies(step: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError

        try:
            with rig.attempt() as ctx:
                fragile(ctx, rule, dies)
        except KilledError:
            continue
        break
    else:
        with rig.attempt() as ctx:
            fragile(ctx, rule)
    with rig.attempt() as ctx:
        got = fragile(ctx, rule)
    assert (got.total, got.times) == (want.total, want.times)
    assert torch.equal(got.vector, want.vector)
    assert rig.points() == points
    assert rig.events("diverged")[-1] == told[-1]


EARLY, LATE = from_step(2, until_slowed=2), from_step(6, until_slowed=2)


def put_off(step: int, times: int) -> bool:
    """Skips where a checkpoint is due, so that it comes one step later; and diverges after that."""
    return step == 3 or (step >= 6 and times < 1)


@pytest.mark.parametrize(
    ("rule", "stopped"),
    [
        *[(LATE, step) for step in (3, 4, 5, 6, 7, 9)],  # among them checkpoints on the way that is left
        *[(EARLY, step) for step in (0, 1, 2)],  # before there is any to go back to
        *[(put_off, step) for step in (2, 3, 4)],  # while one is put off
    ],
)
def test_stopped_anywhere_on_the_way_it_ends_the_same(
    rig: Rig, tmp_path: Path, rule: Rule, stopped: int
) -> None:
    want, points, _ = reference(tmp_path, rule)

    def during(step: int) -> None:
        if step == stopped and not rig.events("stop"):
            rig.request("stop")

    with rig.attempt() as ctx, pytest.raises(PhaseStopped):
        fragile(ctx, rule, during)
    with rig.attempt() as ctx:
        got = fragile(ctx, rule)
    assert (got.total, got.times) == (want.total, want.times)
    assert torch.equal(got.vector, want.vector)
    assert rig.points() == points


def test_a_checkpoint_asked_for_among_skips_is_not_gone_back_to(rig: Rig) -> None:
    def during(step: int) -> None:
        if step == 6 and not rig.checkpoints()[1:]:
            rig.request("checkpoint")

    with rig.attempt() as ctx:
        fragile(ctx, from_step(6), during)
    assert "back to the checkpoint of step 4" in rig.events("diverged")[0]
    assert rig.checkpoints() == [8, 12]
    assert not (rig.paths.checkpoints("pretrain") / "step-00000007").exists()


def test_checkpoints_asked_for_do_not_push_out_the_one_to_go_back_to(rig: Rig) -> None:
    """Two are kept, three are asked for: the scheduled one is kept besides."""
    held: list[list[int]] = []

    def during(step: int) -> None:
        if step in (4, 5, 6) and not held:
            rig.request("checkpoint")
        if step == 7:
            held.append(rig.checkpoints())

    with rig.attempt() as ctx:
        fragile(ctx, from_step(7), during)
    assert held[0] == [4, 6, 7]
    assert "back to the checkpoint of step 4" in rig.events("diverged")[0]


def test_a_checkpoint_that_is_due_among_skips_waits_for_a_good_update(rig: Rig) -> None:
    with rig.attempt() as ctx:
        fragile(ctx, lambda step, times: step == 3)
    assert [text.split(" (")[0] for text in rig.events("checkpoint")] == [
        "checkpoint step 5", "checkpoint step 8", "checkpoint step 12",
    ]  # fmt: skip
    assert rig.events("diverged") == []


def test_too_often_fails_with_what_was_tried_and_what_to_do(rig: Rig) -> None:
    with pytest.raises(TrainingError) as caught, rig.attempt() as ctx:
        fragile(ctx, lambda step, times: step >= 6)
    assert len(rig.events("diverged")) == 3
    assert rig.events("diverged")[2].endswith("with 0.125 of the learning rate (3 of at most 3 times)")
    assert str(caught.value) == (
        "pretrain diverged: loss or gradient was NaN or infinite 2 times in a row up to step 8, and it went "
        "back to a checkpoint 3 times, the last time with 0.125 of the rate. Resumed, it would come here "
        "again; make a session with a lower rate, such as --set pretrain.learning_rate=0.00019."
    )
    assert caught.value.exit_code == 11
    assert rig.checkpoints() == [4]


def test_without_a_way_back_it_fails_at_once(rig: Rig) -> None:
    training = rig.config.pretrain.model_copy(update={"max_rollbacks": 0})
    rig.config = rig.config.model_copy(update={"pretrain": training})
    with pytest.raises(TrainingError, match=r"pretrain\.max_rollbacks is 0"), rig.attempt() as ctx:
        fragile(ctx, from_step(6))
    assert rig.events("diverged") == []


def test_a_damaged_checkpoint_is_passed_over_on_the_way_back(rig: Rig) -> None:
    def during(step: int) -> None:
        if step == 9:
            (rig.paths.checkpoints("pretrain") / "step-00000008" / "state.json").write_text("{}")

    with rig.attempt() as ctx:
        fragile(ctx, from_step(9), during)
    assert len(rig.events("damaged")) == 1
    assert "back to the checkpoint of step 4" in rig.events("diverged")[0]


def test_a_disk_that_refuses_the_way_back_holds_the_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    full = True
    real = MetricsWriter.rewind

    def rewind(writer: MetricsWriter, phase: str, last_steps: Any) -> int:
        if full and last_steps:
            raise SqliteError("database or disk is full")
        return real(writer, phase, last_steps)

    states: list[State] = []

    def free() -> None:
        nonlocal full
        full = False
        states.append(rig.session.state)
        rig.clock.now += RETRY_SECONDS

    monkeypatch.setattr(MetricsWriter, "rewind", rewind)
    with rig.attempt(control=ScriptedControl(free)) as ctx:
        sums = fragile(ctx, from_step(6))
    assert states == [State.PAUSED]
    assert rig.events("disk")[0].startswith("cannot go back from step 8: the metrics in ")
    assert rig.events("continue") == ["the run could go back"]
    assert sums.times == 1


def test_a_state_that_cannot_diverge_costs_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from forge.engine import recovery

    monkeypatch.setattr(recovery, "_copied", lambda contents: pytest.fail("copied"))
    with rig.attempt() as ctx:
        for _ in ctx.steps(2, Sums()):
            pass


# --- the real phases ------------------------------------------------------------------------------------


class Planted:
    """A gradient of NaN from a step on, until the learning rate was lowered; and the end of the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int = 3) -> None:
        self.dies_after = 0
        real_step, real_gradient = Trainer.train_step, Trainer._gradient
        step_now = -1

        def train_step(trainer: Trainer, step: int, x: Tensor, y: Tensor) -> StepResult:
            nonlocal step_now
            step_now = step
            self.dies_after -= 1
            if self.dies_after == 0:
                raise SystemExit
            return real_step(trainer, step, x, y)

        def gradient(trainer: Trainer, x: Tensor, y: Tensor) -> tuple[float, float]:
            found = real_gradient(trainer, x, y)
            return (math.nan, math.nan) if step_now >= first and trainer._slowness == 1.0 else found

        monkeypatch.setattr(Trainer, "train_step", train_step)
        monkeypatch.setattr(Trainer, "_gradient", gradient)


def with_two_skips(wanted: PipelineConfig) -> PipelineConfig:
    """Two skips in a row are a divergence, in every phase."""
    return wanted.model_copy(
        update={
            phase: getattr(wanted, phase).model_copy(update={"max_skipped": 2}) for phase in wanted.phases
        }
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_both_phases_diverge_go_back_and_end_the_same_when_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 4 and 5 are skipped: pre-training goes back to step 2 and on, and so does forging."""
    planted, engine = Planted(monkeypatch), Engine(Home(tmp_path / "home"))
    wanted = with_two_skips(config(write_text(tmp_path / "text"), 6))
    session = engine.create(wanted)
    assert engine.host(session).wait(120)
    expected = outcome(engine, session)
    assert_each_step_once(expected, 6)
    told = [row.message for row in engine.registry.fetch(queries.latest_events(session, 1000))]
    assert len([text for text in told if text.startswith("diverged")]) == 2
    lowered = dict(expected.log["pretrain lr"])
    assert unpack("<d", lowered[3])[0] == wanted.pretrain.learning_rate / 2
    # In the skips, on the way back, and after it; in forging two trainers share each step.
    for place in ((4,), (5,), (6,), (7, 16), (20, 7)):
        session = engine.create(wanted)
        for count in place:
            planted.dies_after = count
            run = engine.host(session)
            assert run.wait(120)
            assert run.outcome is State.INTERRUPTED
        planted.dies_after = 0
        assert engine.host(session).wait(120)
        assert outcome(engine, session) == expected
    engine.shutdown()


def test_back_at_the_start_it_is_the_run_that_was_always_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the way that was left remains: not in weights, moments, averages, generators or the log."""
    engine = Engine(Home(tmp_path / "home"))
    wanted = with_two_skips(config(write_text(tmp_path / "text"), 4))
    slow = wanted.model_copy(
        update={
            phase: (training := getattr(wanted, phase)).model_copy(
                update={
                    "learning_rate": training.learning_rate / 2,
                    "muon_learning_rate": training.muon_learning_rate / 2,
                }
            )
            for phase in wanted.phases
        }
    )
    steady, lost = engine.create(slow), engine.create(wanted)
    assert engine.host(steady).wait(120)
    Planted(monkeypatch, first=1)
    assert engine.host(lost).wait(120)
    told = [row.message for row in engine.registry.fetch(queries.latest_events(lost, 1000))]
    assert len([text for text in told if "back to the start with 0.5" in text]) == 2
    assert outcome(engine, lost) == outcome(engine, steady)
    engine.shutdown()
