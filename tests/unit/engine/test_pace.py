"""Speed and duration as a person would measure them."""

from __future__ import annotations

from forge.engine.pace import Stopwatch, Throughput
from tests.unit.engine.rig import Clock


def step(pace: Throughput, clock: Clock, seconds: float) -> None:
    pace.begin()
    clock.now += seconds
    pace.end()


def test_speed_is_the_mean_over_the_last_steps() -> None:
    clock = Clock()
    pace = Throughput(horizon=2, clock=clock)
    assert pace.steps_per_second == 0.0
    for seconds in (9.0, 1.0, 3.0):
        step(pace, clock, seconds)
    assert pace.steps_per_second == 2 / 4
    step(pace, clock, 1.0)
    assert pace.steps_per_second == 2 / 4


def test_the_first_step_counts_only_until_there_is_a_second() -> None:
    clock = Clock()
    pace = Throughput(clock=clock)
    step(pace, clock, 60.0)
    assert pace.steps_per_second == 1 / 60
    step(pace, clock, 2.0)
    assert pace.steps_per_second == 1 / 2
    step(pace, clock, 4.0)
    assert pace.steps_per_second == 2 / 6


def test_a_pause_is_no_part_of_a_step() -> None:
    clock = Clock()
    pace = Throughput(clock=clock)
    step(pace, clock, 1.0)
    step(pace, clock, 1.0)
    pace.begin()
    pace.drop()
    clock.now += 3600
    pace.end()
    assert pace.steps_per_second == 1.0


def test_the_stopwatch_adds_attempts_and_leaves_out_pauses() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 5
    watch.add(100.0)
    assert watch.seconds == 105.0
    watch.stop()
    watch.stop()
    clock.now += 3600
    assert watch.seconds == 105.0
    watch.start()
    watch.start()
    clock.now += 1
    assert watch.seconds == 106.0
