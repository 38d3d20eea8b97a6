"""The phase contract as the engine keeps it: stop it anywhere, and it goes on as if nothing had been."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forge import durable
from forge.contract import PhaseContext
from forge.engine import Engine
from forge.engine.context import RETRY_SECONDS, EngineContext, PhaseStopped
from forge.engine.control import Control
from forge.errors import CheckpointError, RegistryError
from forge.home import Home
from forge.registry import CommandRow, Heartbeat, State, cleanup
from forge.validate.disk import Disk
from tests.unit.engine.rig import STEPS, Counting, Rig, ScriptedControl, Sums, counting_config, drive


class KilledError(BaseException):
    """The process is gone, as by `kill -9`: nobody cleans up."""


def kill_at(step: int) -> Callable[[PhaseContext, int], None]:
    def during(ctx: PhaseContext, at: int) -> None:
        if at == step:
            raise KilledError

    return during


def at_step(step: int, act: Callable[[], object]) -> Callable[[PhaseContext, int], None]:
    """Do something inside a step, so that it is found at the boundary after it."""

    def during(ctx: PhaseContext, at: int) -> None:
        if at == step:
            act()

    return during


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sums, dict[str, list[tuple[int, float]]]]:
    """What an uninterrupted run gives: final state and log."""
    engine = Engine(Home(tmp_path_factory.mktemp("whole") / "home"))
    rig = Rig(engine, engine.create(counting_config()))
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting())
    log = rig.points()
    engine.shutdown()
    return sums, log


def assert_same(rig: Rig, sums: Sums, whole: tuple[Sums, dict[str, list[tuple[int, float]]]]) -> None:
    assert sums.total == whole[0].total
    assert torch.equal(sums.vector, whole[0].vector)
    assert rig.points() == whole[1]
    assert [step for step, _ in whole[1]["loss"]] == list(range(1, STEPS + 1))


# --- exact resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", range(STEPS))
def test_killed_in_any_step_it_resumes_bit_for_bit(rig: Rig, whole: Any, killed: int) -> None:
    with pytest.raises(KilledError), rig.attempt() as ctx:
        drive(ctx, Counting(kill_at(killed)))
    assert rig.session.state is State.INTERRUPTED
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting())
    assert_same(rig, sums, whole)
    resumed = [f"resumed at step {killed // 4 * 4}; {killed % 4 * 2 + 2} later points dropped"]
    assert rig.events("resume") == (resumed if killed >= 4 else [])


@pytest.mark.parametrize("stopped", range(STEPS))
def test_stopped_after_any_step_it_resumes_bit_for_bit(rig: Rig, whole: Any, stopped: int) -> None:
    with rig.attempt() as ctx, pytest.raises(PhaseStopped, match="stopped by anna"):
        drive(ctx, Counting(at_step(stopped, lambda: rig.request("stop"))))
    assert rig.checkpoints()[-1] == stopped + 1
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting())
    assert_same(rig, sums, whole)


def test_killed_again_and_again_it_still_arrives(rig: Rig, whole: Any) -> None:
    for killed in (1, 5, 5, 9, 8):
        with pytest.raises(KilledError), rig.attempt() as ctx:
            drive(ctx, Counting(kill_at(killed)))
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting())
    assert_same(rig, sums, whole)


def test_resumed_after_its_last_step_it_repeats_nothing(rig: Rig, whole: Any) -> None:
    def die(ctx: PhaseContext) -> None:
        raise KilledError

    with pytest.raises(KilledError), rig.attempt() as ctx:
        drive(ctx, Counting(measuring=die))
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting(lambda ctx, step: pytest.fail("a step was repeated")))
    assert_same(rig, sums, whole)


def test_the_name_of_the_checkpoint_that_it_resumes_from_outlives_a_cut(rig: Rig) -> None:
    """Killed between rename and sync: who comes next goes on from a name that only memory has."""
    with pytest.raises(KilledError), rig.attempt() as ctx:
        drive(ctx, Counting(kill_at(9)))
    newest = rig.paths.checkpoints("pretrain") / "step-00000008"
    written = newest.rename(newest.with_name(f"{newest.name}.tmp-01ARZ3NDEKTSV4RRFFQ69G5FAV"))
    disk = Disk(rig.paths.root)
    with disk.recording():
        written.rename(newest)
        with pytest.raises(KilledError), rig.attempt() as ctx:
            drive(ctx, Counting(kill_at(8)))
    assert disk.final
    kept = str(newest.relative_to(rig.paths.root) / "manifest.json")
    assert all(kept in image.files for image in disk.final)


def test_a_lost_generator_state_would_be_seen(rig: Rig, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the tests above: without the generators the numbers do differ."""
    with pytest.raises(KilledError), rig.attempt() as ctx:
        drive(ctx, Counting(kill_at(6)))
    with rig.attempt() as ctx:
        monkeypatch.setattr(ctx.rng, "load_state_dict", lambda state: None)
        assert drive(ctx, Counting()).total != whole[0].total


def test_seconds_add_up_over_attempts_and_leave_out_pauses(rig: Rig) -> None:
    def slowly(ctx: PhaseContext, step: int) -> None:
        rig.clock.now += 10
        if step == 5:
            rig.request("pause")
        if step == 8:
            raise KilledError

    def rest() -> None:
        rig.clock.now += 3600
        rig.request("resume")

    with pytest.raises(KilledError), rig.attempt(control=ScriptedControl(rest)) as ctx:
        drive(ctx, Counting(slowly))
    with rig.attempt() as ctx:
        drive(ctx, Counting(at_step(11, lambda: setattr(rig.clock, "now", rig.clock.now + 1))))
        assert ctx.seconds == 8 * 10 + 1  # up to the checkpoint of step 8, and what came after it


# --- damaged checkpoints --------------------------------------------------------------------------------


def interrupted_at_nine(rig: Rig) -> None:
    with pytest.raises(KilledError), rig.attempt() as ctx:
        drive(ctx, Counting(kill_at(9)))
    assert rig.checkpoints() == [4, 8]


def spoil(rig: Rig, step: int) -> None:
    path = rig.paths.checkpoints("pretrain") / f"step-{step:08d}" / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_damaged_newest_one_falls_back_and_says_so(rig: Rig, whole: Any) -> None:
    interrupted_at_nine(rig)
    spoil(rig, 8)
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting())
    assert_same(rig, sums, whole)
    (message,) = rig.events("damaged")
    assert message.startswith("checkpoint of step 8 is damaged and was skipped: ")
    assert "optimizer.safetensors does not have the hash" in message
    assert rig.events("resume") == ["resumed at step 4; 12 later points dropped"]
    assert rig.checkpoints() == [8, 12]


def test_with_none_left_it_begins_again_and_says_so(rig: Rig, whole: Any) -> None:
    interrupted_at_nine(rig)
    spoil(rig, 4)
    spoil(rig, 8)
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting())
    assert_same(rig, sums, whole)
    assert len(rig.events("damaged")) == 2
    assert rig.events("restart") == ["no checkpoint is left that can be used: begins again at step 0"]


def test_the_registry_is_made_to_say_what_is_on_disk(rig: Rig) -> None:
    interrupted_at_nine(rig)
    folder = rig.paths.checkpoints("pretrain")
    shutil.rmtree(folder / "step-00000004")
    (folder / "step-00000099.tmp-01ARZ3NDEKTSV4RRFFQ69G5FAV").mkdir()
    rig.registry.write(lambda c: c.execute("DELETE FROM checkpoint WHERE step = 8").rowcount)
    with rig.attempt() as ctx:
        next(iter(ctx.steps(STEPS, Sums())))
    assert rig.checkpoints() == [8]
    assert [entry.name for entry in folder.iterdir()] == ["step-00000008"]


def test_a_log_that_was_lost_is_said_to_be_lost(rig: Rig) -> None:
    interrupted_at_nine(rig)
    for suffix in ("", "-wal", "-shm"):
        rig.paths.metrics.with_name(f"metrics.db{suffix}").unlink(missing_ok=True)
    with rig.attempt() as ctx:
        drive(ctx, Counting())
    told = "the log does not reach back to this checkpoint: points of loss, total are gone"
    assert rig.events("log") == [told]


def test_another_processor_or_thread_count_is_said_to_be_inexact(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_at_nine(rig)
    with rig.attempt() as ctx:
        rig.scope.fingerprint["threads"] = 7
        rig.scope.fingerprint["processor"] = "Abacus"
        drive(ctx, Counting())
    (message,) = rig.events("inexact")
    assert "threads 1 → 7" in message
    assert message.endswith("→ Abacus")
    assert message.startswith("exact resume is off: ")


def test_a_configuration_edited_by_hand_is_said_to_be_inexact(rig: Rig) -> None:
    interrupted_at_nine(rig)
    rig.paths.config.write_text(rig.paths.config.read_text().replace("seed: 0", "seed: 1"))
    with rig.attempt() as ctx:
        drive(ctx, Counting())
    assert "configuration" in rig.events("inexact")[0]


def test_the_same_place_is_exact_and_says_nothing(rig: Rig) -> None:
    interrupted_at_nine(rig)
    with rig.attempt() as ctx:
        drive(ctx, Counting())
    assert rig.events("inexact", "damaged", "restart") == []


# --- requests -------------------------------------------------------------------------------------------


def test_pause_stands_until_resume_and_changes_nothing(rig: Rig, whole: Any) -> None:
    asked: list[CommandRow] = []
    seen: list[tuple[State, State, int]] = []

    def look() -> None:
        seen.append((rig.session.state, rig.phase().state, rig.phase().step))

    def go_on() -> None:
        look()
        asked.append(rig.request("resume"))

    control = ScriptedControl(look, go_on)
    with rig.attempt(control=control) as ctx:
        sums = drive(ctx, Counting(at_step(5, lambda: asked.append(rig.request("pause")))))
        look()
    assert_same(rig, sums, whole)
    assert seen == [(State.PAUSED, State.PAUSED, 6)] * 2 + [(State.RUNNING, State.RUNNING, 12)]
    pause, resume = asked
    assert rig.answer(pause) == ("done", "paused before step 7")
    assert rig.answer(resume) == ("done", "went on at step 7")
    assert rig.events("pause", "continue") == ["paused by anna", "continued by anna"]


def test_a_checkpoint_in_a_pause_leaves_it_paused(rig: Rig) -> None:
    asked: list[CommandRow] = []
    states: list[tuple[State, State]] = []

    def look() -> None:
        states.append((rig.session.state, rig.phase().state))
        rig.request("resume")

    control = ScriptedControl(lambda: asked.append(rig.request("checkpoint")), look)
    with rig.attempt(control=control) as ctx:
        drive(ctx, Counting(at_step(5, lambda: rig.request("pause"))))
    assert rig.answer(asked[0]) == ("done", "the checkpoint of step 6")
    assert states == [(State.PAUSED, State.PAUSED)]


def test_stop_in_a_pause_has_its_checkpoint(rig: Rig, whole: Any) -> None:
    asked: list[CommandRow] = []
    control = ScriptedControl(lambda: asked.append(rig.request("stop")))
    with rig.attempt(control=control) as ctx, pytest.raises(PhaseStopped):
        drive(ctx, Counting(at_step(5, lambda: rig.request("pause"))))
    assert rig.answer(asked[0]) == ("done", "stopped, with a checkpoint at step 6")
    assert rig.checkpoints()[-1] == 6
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting())
    assert_same(rig, sums, whole)


def test_a_signal_in_a_pause_has_its_checkpoint(rig: Rig) -> None:
    control = ScriptedControl(lambda: control.request_stop("stopped by SIGTERM"))
    with (
        rig.attempt(control=control) as ctx,
        pytest.raises(PhaseStopped, match="stopped by SIGTERM, with a checkpoint at step 6"),
    ):
        drive(ctx, Counting(at_step(5, lambda: rig.request("pause"))))
    assert rig.checkpoints()[-1] == 6


def test_a_checkpoint_of_a_step_that_has_one_is_answered_truthfully(rig: Rig) -> None:
    asked: list[CommandRow] = []

    def twice(ctx: PhaseContext, step: int) -> None:
        if step in (3, 5):
            asked.extend([rig.request("checkpoint"), rig.request("checkpoint")])

    with rig.attempt() as ctx:
        drive(ctx, Counting(twice))
    assert [rig.answer(command) for command in asked] == [
        ("done", "the checkpoint of step 4 was there already"),
        ("done", "the checkpoint of step 4 was there already"),
        ("done", "the checkpoint of step 6"),
        ("done", "the checkpoint of step 6 was there already"),
    ]


def test_what_makes_no_sense_is_refused(rig: Rig) -> None:
    asked: list[CommandRow] = []

    def pause_again() -> None:
        asked.append(rig.request("pause"))
        rig.request("resume")

    with rig.attempt(control=ScriptedControl(pause_again)) as ctx:
        drive(
            ctx,
            Counting(
                lambda ctx, step: (
                    asked.append(rig.request("resume")) if step == 2 else step == 5 and rig.request("pause")
                )
            ),
        )
    assert rig.answer(asked[0]) == ("refused", "the run is already running")
    assert rig.answer(asked[1]) == ("refused", "the run is already paused")


def test_what_was_asked_behind_a_stop_is_left_to_be_answered(rig: Rig) -> None:
    asked: list[CommandRow] = []
    during = at_step(5, lambda: asked.extend([rig.request("stop"), rig.request("checkpoint")]))
    with rig.attempt() as ctx, pytest.raises(PhaseStopped):
        drive(ctx, Counting(during))
    taken = rig.control.take()
    assert taken is not None
    assert taken.id == asked[1].id


def test_stop_while_preparing_data_is_obeyed(rig: Rig) -> None:
    def prepare(ctx: PhaseContext) -> None:
        asked.append(rig.request("checkpoint"))
        asked.append(rig.request("stop"))
        ctx.status("reading the corpus")
        pytest.fail("it went on")

    asked: list[CommandRow] = []
    with rig.attempt() as ctx, pytest.raises(PhaseStopped, match="before its next step"):
        drive(ctx, Counting(preparing=prepare))
    assert rig.answer(asked[0])[0] == "refused"
    assert rig.answer(asked[1]) == ("done", "stopped, before its next step")
    assert rig.checkpoints() == []


def test_a_pause_while_preparing_data_keeps_what_is_known_of_the_step(rig: Rig) -> None:
    interrupted_at_nine(rig)
    seen: list[tuple[State, int]] = []

    def look() -> None:
        seen.append((rig.phase().state, rig.phase().step))
        rig.request("resume")

    def prepare(ctx: PhaseContext) -> None:
        rig.request("pause")
        ctx.status("reading the corpus")

    with rig.attempt(control=ScriptedControl(look)) as ctx:
        drive(ctx, Counting(preparing=prepare))
    assert seen == [(State.PAUSED, 8)]


def test_stop_while_measuring_is_obeyed_and_loses_nothing(rig: Rig, whole: Any) -> None:
    def measure(ctx: PhaseContext) -> None:
        rig.control.request_stop("stopped by SIGTERM")
        ctx.status("measuring on held-out files")
        pytest.fail("it went on")

    with rig.attempt() as ctx, pytest.raises(PhaseStopped, match="with a checkpoint at step 12"):
        drive(ctx, Counting(measuring=measure))
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting())
    assert_same(rig, sums, whole)


BATCHES = 3


def evaluation(
    heard: list[tuple[int, int]], act: Callable[[tuple[int, int]], object] = lambda batch: None
) -> Callable[[PhaseContext, int], None]:
    """Measures every third step in batches, each told to `act` before the poll; `heard` has those done."""

    def evaluating(ctx: PhaseContext, done: int) -> None:
        if done % 3:
            return
        for batch in range(BATCHES):
            act((done, batch))
            ctx.poll()
            heard.append((done, batch))
        ctx.log(done, measured=done / 3)

    return evaluating


EVALUATIONS = [(done, batch) for done in range(0, STEPS + 1, 3) for batch in range(BATCHES)]


@pytest.mark.parametrize("stopped", EVALUATIONS)
def test_a_stop_within_an_evaluation_ends_it_and_it_is_made_again(
    rig: Rig, whole: Any, stopped: tuple[int, int]
) -> None:
    def stop(batch: tuple[int, int]) -> None:
        if batch == stopped:
            rig.control.request_stop("stopped by SIGTERM")

    heard: list[tuple[int, int]] = []
    with rig.attempt() as ctx, pytest.raises(PhaseStopped, match=f"a checkpoint at step {stopped[0]}"):
        drive(ctx, Counting(evaluating=evaluation(heard, stop)))
    assert heard == EVALUATIONS[: EVALUATIONS.index(stopped)], "no batch after the request"
    assert rig.checkpoints()[-1] == stopped[0]
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting(evaluating=evaluation(heard := [])))
    assert heard == [batch for batch in EVALUATIONS if batch[0] >= stopped[0]]
    points = rig.points()
    assert points.pop("measured") == [(done, done / 3) for done in range(0, STEPS + 1, 3)]
    assert (sums.total, points) == (whole[0].total, whole[1])


def test_an_evaluation_that_came_to_its_end_is_not_made_again(rig: Rig) -> None:
    heard: list[int] = []
    with pytest.raises(KilledError), rig.attempt() as ctx:
        drive(ctx, Counting(kill_at(9), evaluating=lambda ctx, done: heard.append(done)))
    assert heard == list(range(10))
    with rig.attempt() as ctx:
        drive(ctx, Counting(evaluating=lambda ctx, done: heard.append(done)))
    assert heard[10:] == [9, 10, 11, 12], "the checkpoint of step 8 was written after its evaluation"


def test_an_evaluation_pauses_and_shows_that_it_lives(rig: Rig) -> None:
    seen: list[tuple[State, float]] = []
    beats: list[Heartbeat | None] = []

    def act(batch: tuple[int, int]) -> None:
        beats.append(rig.scope.telemetry.heartbeat)
        if batch == (6, 1):
            rig.request("pause")

    def look() -> None:
        seen.append((rig.phase().state, rig.phase().step))
        rig.request("resume")

    heard: list[tuple[int, int]] = []
    with rig.attempt(control=ScriptedControl(look)) as ctx:
        drive(ctx, Counting(evaluating=evaluation(heard, act)))
    assert seen == [(State.PAUSED, 6)]
    assert heard == EVALUATIONS
    assert len({id(beat) for beat in beats}) == len(beats), "a beat for each batch"


def test_a_status_inside_a_step_is_no_boundary(rig: Rig) -> None:
    def during(ctx: PhaseContext, step: int) -> None:
        if step == 5:
            rig.request("stop")
            ctx.status("evaluating")
            order.append("the step was finished")

    order: list[str] = []
    with rig.attempt() as ctx, pytest.raises(PhaseStopped, match="at step 6"):
        drive(ctx, Counting(during))
    assert order == ["the step was finished"]


def test_a_phase_that_guards_its_steps_cannot_hold_up_a_stop(rig: Rig) -> None:
    def guarded(ctx: EngineContext) -> None:
        try:
            drive(ctx, Counting(at_step(5, lambda: rig.request("stop"))))
        except Exception:  # noqa: BLE001 - what this phase is here to show
            pytest.fail("it took the stop for a mistake")

    with rig.attempt() as ctx, pytest.raises(PhaseStopped):
        guarded(ctx)


# --- a disk that refuses --------------------------------------------------------------------------------


class FullDisk:
    """Refuses checkpoints until it is told to take them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        real = durable.write_file

        def write_file(path: Any, data: bytes, mode: int = 0o600) -> None:
            if self.full:
                raise OSError(28, "No space left on device", str(path))
            real(path, data, mode)

        monkeypatch.setattr(durable, "write_file", write_file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


def fill_at(disk: FullDisk, step: int) -> Callable[[PhaseContext, int], None]:
    return at_step(step, lambda: setattr(disk, "full", True))


def test_without_room_it_pauses_says_so_and_goes_on_by_itself(rig: Rig, disk: FullDisk, whole: Any) -> None:
    states: list[tuple[State, str]] = []

    def look() -> None:
        beat = rig.scope.telemetry.heartbeat
        assert beat is not None
        states.append((rig.session.state, beat.status.split(" (")[0]))
        rig.clock.now += RETRY_SECONDS / 2

    def free() -> None:
        look()
        disk.full = False

    with rig.attempt(control=ScriptedControl(look, look, look, free)) as ctx:
        sums = drive(ctx, Counting(fill_at(disk, 6)))
    assert_same(rig, sums, whole)
    assert states == [(State.PAUSED, "No space left on device")] * 4
    (told,) = rig.events("disk")
    assert told.startswith("no checkpoint at step 8: No space left on device (")
    assert told.endswith("Paused; tried again every 10 seconds, and at once when resumed")
    assert rig.events("continue") == ["the checkpoint of step 8 is written"]
    assert rig.checkpoints() == [8, 12]


def test_resume_tries_again_at_once(rig: Rig, disk: FullDisk) -> None:
    asked: list[CommandRow] = []

    def in_vain() -> None:
        asked.append(rig.request("resume"))

    def freed() -> None:
        disk.full = False
        asked.append(rig.request("resume"))

    with rig.attempt(control=ScriptedControl(in_vain, freed)) as ctx:
        drive(ctx, Counting(fill_at(disk, 6)))
    answers = {rig.answer(command) for command in asked}
    assert answers == {("done", "tries again to save the checkpoint of step 8")}
    assert len(rig.events("disk")) == 2  # who tries again in vain is told again
    assert rig.session.state is State.INTERRUPTED  # the test's owner is gone


def test_a_checkpoint_asked_for_meanwhile_ends_the_waiting(rig: Rig, disk: FullDisk) -> None:
    asked: list[CommandRow] = []

    def freed() -> None:
        disk.full = False
        asked.append(rig.request("checkpoint"))

    with rig.attempt(control=ScriptedControl(freed)) as ctx:
        drive(ctx, Counting(fill_at(disk, 6)))
    assert rig.answer(asked[0]) == ("done", "the checkpoint of step 8")
    assert rig.events("continue") == ["the checkpoint of step 8 is written"]


def test_a_pause_asked_for_meanwhile_outlasts_the_trouble(rig: Rig, disk: FullDisk) -> None:
    states: list[State] = []

    def pause_and_free() -> None:
        rig.request("pause")
        disk.full = False
        rig.clock.now += RETRY_SECONDS

    def look() -> None:
        states.append(rig.session.state)
        rig.request("resume")

    with rig.attempt(control=ScriptedControl(pause_and_free, look)) as ctx:
        drive(ctx, Counting(fill_at(disk, 6)))
    assert states == [State.PAUSED]
    assert rig.checkpoints() == [8, 12]


def test_stop_without_room_stops_and_tells_the_truth(rig: Rig, disk: FullDisk, whole: Any) -> None:
    asked: list[CommandRow] = []
    control = ScriptedControl(lambda: asked.append(rig.request("stop")))
    text = "without a checkpoint at step 8, which the disk refused; the newest is of step 4"
    with rig.attempt(control=control) as ctx, pytest.raises(PhaseStopped, match=text):
        drive(ctx, Counting(fill_at(disk, 6)))
    assert rig.answer(asked[0]) == ("done", f"stopped, {text}")
    disk.full = False
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting())
    assert_same(rig, sums, whole)


def test_a_checkpoint_asked_for_without_room_is_refused_and_the_run_goes_on(rig: Rig, disk: FullDisk) -> None:
    asked: list[CommandRow] = []

    def during(ctx: PhaseContext, step: int) -> None:
        disk.full = step == 4
        if step == 4:
            asked.append(rig.request("checkpoint"))

    with rig.attempt() as ctx:
        drive(ctx, Counting(during))
    state, text = rig.answer(asked[0])
    assert state == "refused"
    assert text is not None
    assert text.startswith("no checkpoint: No space left on device")


def test_room_for_two_is_required_before_writing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4 * 4  # the vector
    free = 2 * (size + 5056) - 1  # and the state of torch's generator

    class Usage:
        def __init__(self, free: int) -> None:
            self.free = free

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free))

    def more() -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free + 1))
        rig.clock.now += RETRY_SECONDS

    with rig.attempt(control=ScriptedControl(more)) as ctx:
        drive(ctx, Counting())
    (told,) = rig.events("disk")
    assert "0 MB are free where" in told
    assert "2 checkpoints need 0 MB" in told


def test_a_log_that_cannot_be_written_holds_the_checkpoint_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forge.registry import Error, MetricsWriter

    full = True
    real = MetricsWriter.commit_durably

    def commit(writer: MetricsWriter) -> None:
        if full:
            raise Error("database or disk is full")
        real(writer)

    def free() -> None:
        nonlocal full
        full = False
        assert rig.checkpoints() == []
        rig.clock.now += RETRY_SECONDS

    monkeypatch.setattr(MetricsWriter, "commit_durably", commit)
    with rig.attempt(control=ScriptedControl(free)) as ctx:
        drive(ctx, Counting())
    assert "database or disk is full" in rig.events("disk")[0]
    assert rig.checkpoints() == [8, 12]


def test_an_old_checkpoint_that_cannot_be_deleted_stops_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.retire_tree

    def retire_tree(path: Path, name: str) -> None:
        if path.name == "step-00000004":
            raise PermissionError(13, "Permission denied", str(path))
        real(path, name)

    monkeypatch.setattr(durable, "retire_tree", retire_tree)
    with rig.attempt() as ctx:
        drive(ctx, Counting())
    assert rig.events("rotate")[0].startswith("an old checkpoint could not be deleted: Permission denied (")
    assert rig.checkpoints()[-2:] == [8, 12]


@pytest.mark.parametrize(
    ("held_out", "kept"),
    [
        ({4: 1.0, 8: 2.0, 12: 3.0, 16: 4.0}, [4, 12, 16]),  # the best is old
        ({4: 3.0, 8: 1.0, 12: 1.0, 16: 2.0}, [12, 16]),  # of equals the newest
        ({4: 4.0, 8: 3.0, 12: 2.0, 16: 1.0}, [12, 16]),  # the final one is the best
        ({4: math.nan, 8: -math.inf, 12: 9.0, 16: math.nan}, [12, 16]),  # no number is no measurement
        (
            {5: 0.5, 8: 2.0, 12: 3.0, 16: 4.0},
            [8, 12, 16],
        ),  # what no checkpoint was measured at is no candidate
        ({}, [12, 16]),  # nothing was measured
    ],
)
def test_the_last_ones_and_the_best_are_kept(rig: Rig, held_out: dict[int, float], kept: list[int]) -> None:
    def during(ctx: PhaseContext, step: int) -> None:
        if step + 1 in held_out:
            ctx.log(step + 1, val=held_out[step + 1])

    with rig.attempt() as ctx:
        drive(ctx, Counting(during, steps=16))
    assert rig.checkpoints() == kept
    folder = rig.paths.checkpoints("pretrain")
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step:08d}" for step in kept]


def test_the_best_is_known_after_a_resume(rig: Rig) -> None:
    def during(ctx: PhaseContext, step: int) -> None:
        ctx.log(step + 1, val=float(step))
        if step == 13:
            raise KilledError

    with pytest.raises(KilledError), rig.attempt() as ctx:
        drive(ctx, Counting(during, steps=20))
    with rig.attempt() as ctx:
        drive(ctx, Counting(lambda ctx, step: ctx.log(step + 1, val=float(step)), steps=20))
    assert rig.checkpoints() == [4, 16, 20]


def test_one_too_many_that_a_killed_process_left_goes_with_the_resume(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KilledError

    def at_the_last(ctx: PhaseContext, step: int) -> None:
        if step == 15:
            monkeypatch.setattr("forge.engine.checkpoint.rotate", die)

    with pytest.raises(KilledError), rig.attempt() as ctx:
        drive(ctx, Counting(at_the_last, steps=16))
    assert len(list(rig.paths.checkpoints("pretrain").iterdir())) == 3
    monkeypatch.undo()
    with rig.attempt() as ctx:
        drive(ctx, Counting(steps=16))
    assert rig.checkpoints() == [12, 16]
    assert len(list(rig.paths.checkpoints("pretrain").iterdir())) == 2


def test_a_session_folder_that_is_gone_fails_clearly_and_is_not_made_again(rig: Rig) -> None:
    with (
        pytest.raises(CheckpointError, match=r"is gone, so nothing can be saved there"),
        rig.attempt() as ctx,
    ):
        drive(ctx, Counting(at_step(2, lambda: shutil.rmtree(rig.paths.root))))
    assert not rig.paths.root.exists()


def test_a_registry_that_does_not_answer_stops_no_training(
    rig: Rig, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rig.registry.write
    locked = False

    def write(change: Callable[..., Any]) -> Any:
        if locked:
            raise RegistryError("another process has kept it locked")
        return real(change)

    def during(ctx: PhaseContext, step: int) -> None:
        nonlocal locked
        locked = 2 <= step <= 9
        if step == 10:
            assert rig.scope.outbox.flush()  # as the recorder does once a tick

    monkeypatch.setattr(rig.registry, "write", write)
    with rig.attempt() as ctx:
        sums = drive(ctx, Counting(during))
    assert_same(rig, sums, whole)
    assert rig.checkpoints() == [8, 12]
    assert len(rig.events("checkpoint")) == 3  # nothing that was said is lost


# --- logging and showing --------------------------------------------------------------------------------


def test_nan_and_infinities_are_logged(rig: Rig) -> None:
    with rig.attempt() as ctx:
        for step in ctx.steps(3, Sums()):
            ctx.log(step + 1, loss=[math.nan, math.inf, -math.inf][step])
    values = [value for _, value in rig.points()["loss"]]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


def test_what_is_no_number_fails_where_it_is_logged(rig: Rig) -> None:
    with rig.attempt() as ctx:
        with pytest.raises(TypeError):
            ctx.log(1, loss=None)  # type: ignore[arg-type]
        ctx.log(1, loss=torch.tensor(2.0))  # type: ignore[arg-type]
    assert rig.points()["loss"] == [(1, 2.0)]


def test_a_flood_of_warnings_is_told_in_part_and_logged_in_full(rig: Rig) -> None:
    with rig.attempt() as ctx:
        for number in range(25):
            ctx.warn("skipped", f"update {number} skipped")
        ctx.event("error", "each error is told", level="error")
        ctx.close()
    told = rig.events("skipped")
    assert told[:10] == [f"update {number} skipped" for number in range(10)]
    assert told[10:] == ["15 more events of this kind are in the session's log"]
    assert len([line for line in rig.log() if line["kind"] == "skipped"]) == 25 + 1


def test_the_heartbeat_goes_with_the_steps(rig: Rig) -> None:
    seen: list[tuple[int, int, str, float, float | None]] = []

    def during(ctx: PhaseContext, step: int) -> None:
        rig.clock.now += 2
        beat = rig.scope.telemetry.heartbeat
        if beat is not None:
            seen.append((beat.step, beat.total_steps, beat.status, beat.tokens_per_second, beat.eta_seconds))
        if step == 2:
            ctx.status("evaluating")

    with rig.attempt() as ctx:
        ctx.status("reading")
        drive(ctx, Counting(during, steps=4))
        last = rig.scope.telemetry.heartbeat
    assert seen == [
        (0, STEPS, "reading", 0.0, None),
        (1, 4, "", 0.0, None),  # the speed of a step is known when all that belongs to it is done
        (2, 4, "", 5.0, 4.0),
        (3, 4, "", 5.0, 2.0),
    ]
    assert last is not None
    assert (last.step, last.status, last.eta_seconds) == (4, "measuring", 0.0)


def test_the_speed_is_that_of_the_steps_whatever_stood_between_them(rig: Rig, disk: FullDisk) -> None:
    def during(ctx: PhaseContext, step: int) -> None:
        rig.clock.now += 1
        disk.full = step == 7
        if step == 9:
            rig.request("pause")

    def free() -> None:
        disk.full = False
        rig.clock.now += 1000

    def go_on() -> None:
        rig.clock.now += 1000
        rig.request("resume")

    with rig.attempt(control=ScriptedControl(free, go_on)) as ctx:
        drive(ctx, Counting(during))
        beat = rig.scope.telemetry.heartbeat
        assert ctx.seconds == STEPS
    assert beat is not None
    assert beat.steps_per_second == 1.0


def test_the_steps_can_be_used_once(rig: Rig) -> None:
    with rig.attempt() as ctx:
        list(ctx.steps(2, Sums()))
        with pytest.raises(RuntimeError, match="once"):
            list(ctx.steps(2, Sums()))


def test_leaving_the_loop_early_is_a_boundary_again(rig: Rig) -> None:
    with rig.attempt(control=Control()) as ctx:
        for step in ctx.steps(STEPS, Sums()):
            if step == 2:
                break
        rig.control.request_stop("stopped by SIGTERM")
        with pytest.raises(PhaseStopped):
            ctx.status("measuring")


def test_every_checkpoint_that_is_rotated_out_is_written_down_once(rig: Rig) -> None:
    with rig.attempt() as ctx:
        drive(ctx, Counting(steps=20))
    (*gone,) = reversed(rig.registry.fetch(cleanup.audit(20)))
    assert [row.detail.partition(": ")[2] for row in gone] == [
        f"checkpoint pretrain {step} was rotated" for step in range(4, 21, 4) if step not in rig.checkpoints()
    ]
    assert len(gone) >= 2
    assert {(row.action, row.actor, row.session_id) for row in gone} == {
        ("checkpoint", "retention.auto", rig.session_id)
    }
    assert all(row.bytes for row in gone)
