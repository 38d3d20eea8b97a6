"""A hosted run, with all its threads: however it ends, it says how, and the lease is free."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forge import durable
from forge.contract import PhaseContext
from forge.engine import Engine, HostedRun, host, runner
from forge.engine.lease import Lease, read_info
from forge.engine.store import ModelStore
from forge.errors import CheckpointError, ConfigError, RegistryError, TrainingError
from forge.locks import is_held
from forge.registry import CommandRow, MetricsWriter, Registry, State, edits, queries
from tests.unit.engine.rig import STEPS, Counting, Rig, counting_config
from tests.unit.engine.test_kernel import Machine

PATIENCE = 60


class Phases:
    """The counting phase under the names of the real ones; a test may change each before the run."""

    def __init__(self) -> None:
        self.pretrain, self.forging = Counting(), Counting()

    def make(self, name: str, scope: Any) -> Counting:
        return {"pretrain": self.pretrain, "forging": self.forging}[name]


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> Phases:
    made = Phases()
    monkeypatch.setattr(runner, "make_phase", made.make)
    return made


@pytest.fixture
def ended(engine: Engine, rig: Rig, phases: Phases) -> Callable[[], HostedRun]:
    """Host the session and wait for its end."""

    def go() -> HostedRun:
        run = engine.host(rig.session_id)
        assert run.wait(PATIENCE)
        # Whoever tidies up behind it holds the lease for a moment.
        assert run.settle()
        assert not is_held(rig.paths.lease)
        assert rig.session.lease is None
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("forge-r")] in (
            [], ["forge-registry_0"],
        )  # fmt: skip
        return run

    return go


Ended = Callable[[], HostedRun]


def weights(rig: Rig, phase: str) -> dict[str, torch.Tensor]:
    (row,) = [row for row in rig.registry.fetch(queries.models(rig.session_id, 10)) if row.phase == phase]
    return load_file(rig.paths.root / row.path / "model.safetensors")


def at(step: int, act: Callable[[], object]) -> Callable[[PhaseContext, int], None]:
    def during(ctx: PhaseContext, now: int) -> None:
        if now == step:
            act()

    return during


def fail(error: Exception) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def until(condition: Callable[[], bool]) -> bool:
    """Wait, within bounds, for what another thread brings about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.005)
    return True


# --- ends -----------------------------------------------------------------------------------------------


def test_completed(rig: Rig, phases: Phases, ended: Ended) -> None:
    run = ended()
    assert (run.outcome, run.failure, run.alive) == (State.COMPLETED, None, False)
    assert rig.session.state is State.COMPLETED
    assert rig.session.error is None
    for name in ("pretrain", "forging"):
        row = rig.phase(name)
        assert (row.state, row.step, row.total_steps) == (State.COMPLETED, STEPS, STEPS)
        assert row.report is not None
        assert row.report["seconds"] > 0
        assert row.report["peak_memory_bytes"] > 1 << 20
        assert [step for step, _ in rig.points(name)["loss"]] == list(range(1, STEPS + 1))
    (parent,) = phases.forging.inputs
    for name, tensor in weights(rig, "pretrain").items():
        assert torch.equal(parent.module.state_dict()[name], tensor)
    assert rig.events("phase", "completed") == ["pretrain begins", "forging begins", "all phases completed"]


def test_each_phase_has_generators_of_its_own(rig: Rig, ended: Ended) -> None:
    ended()
    assert rig.points("pretrain") != rig.points("forging")


def test_stopped_and_resumed_it_is_the_same_run(
    engine: Engine, rig: Rig, phases: Phases, ended: Ended
) -> None:
    ended()
    expected = (rig.points("pretrain"), rig.points("forging"))
    expected_weights = weights(rig, "forging")

    other = Rig(engine, engine.create(counting_config(), name="heron"))
    for phase in (phases.pretrain, phases.forging):
        run: HostedRun | None = None

        def stop(ctx: PhaseContext, step: int) -> None:
            if step == 6:
                assert engine.run is not None
                engine.run.stop("stopped by SIGTERM")

        phase.during = stop
        run = engine.host(other.session_id)
        assert run.wait(PATIENCE)
        assert (run.outcome, other.session.state) == (State.STOPPED, State.STOPPED)
        phase.during = Counting().during
    resumed = engine.resume(other.session_id)
    assert isinstance(resumed, HostedRun)
    assert resumed.wait(PATIENCE)
    assert resumed.outcome is State.COMPLETED
    assert (other.points("pretrain"), other.points("forging")) == expected
    assert all(torch.equal(t, expected_weights[name]) for name, t in weights(other, "forging").items())
    assert other.events("stop") == ["stopped by SIGTERM, with a checkpoint at step 7"] * 2


def test_failed_with_a_reason_a_person_can_act_on(rig: Rig, phases: Phases, ended: Ended) -> None:
    error = TrainingError("out of memory at micro-batch 1")
    phases.forging.during = at(5, fail(error))
    run = ended()
    assert (run.outcome, run.failure) == (State.FAILED, error)
    assert (rig.session.state, rig.session.error) == (State.FAILED, "out of memory at micro-batch 1")
    assert (rig.phase("pretrain").state, rig.phase("forging").state) == (State.COMPLETED, State.FAILED)
    phases.forging.during = Counting().during
    assert ended().outcome is State.COMPLETED
    assert rig.session.error is None


def test_failed_by_a_mistake_of_the_program_it_keeps_the_traceback(
    rig: Rig, phases: Phases, ended: Ended
) -> None:
    phases.pretrain.during = at(5, fail(ZeroDivisionError("division by zero")))
    run = ended()
    assert run.outcome is State.FAILED
    reason = f"ZeroDivisionError: division by zero (the traceback is in {rig.paths.log})"
    assert rig.session.error == reason
    traces = [line["message"] for line in rig.log() if line["kind"] == "traceback"]
    assert len(traces) == 1
    assert "in act" in traces[0]


def test_a_device_that_is_not_there_fails_before_the_first_phase(
    engine: Engine, phases: Phases, rig: Rig, ended: Ended
) -> None:
    rig.paths.config.write_text(rig.paths.config.read_text().replace("device: cpu", "device: cuda:7"))
    run = ended()
    assert run.outcome is State.FAILED
    assert isinstance(run.failure, ConfigError)
    assert 'runtime.device is "cuda:7"' in (rig.session.error or "")
    assert rig.phase().state is State.CREATED
    rig.paths.config.write_text(rig.paths.config.read_text().replace("device: cuda:7", "device: cpu"))
    assert ended().outcome is State.COMPLETED


@pytest.mark.parametrize(
    ("garbage", "expected"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"{", "not valid YAML"),
        (b"steps: 5\nseed: -1", "2 problems"),
        (None, "No such file"),
    ],
)
def test_a_frozen_configuration_turned_to_garbage_fails_with_its_path(
    rig: Rig, ended: Ended, garbage: bytes | None, expected: str
) -> None:
    if garbage is None:
        rig.paths.config.unlink()
    else:
        rig.paths.config.write_bytes(garbage)
    run = ended()
    assert run.outcome is State.FAILED
    assert expected in (rig.session.error or "")
    assert str(rig.paths.config) in (rig.session.error or "")


def test_a_damaged_metrics_file_fails_clearly_and_hangs_nobody(rig: Rig, ended: Ended) -> None:
    rig.paths.metrics.write_bytes(b"no database at all" * 300)
    run = ended()
    assert run.outcome is State.FAILED
    assert "metrics" in (rig.session.error or "")
    assert "not a database" in (rig.session.error or "")


def test_a_lost_model_of_the_phase_before_is_said_in_a_sentence(
    rig: Rig, phases: Phases, ended: Ended
) -> None:
    phases.forging.during = at(5, fail(TrainingError("once")))
    ended()
    shutil.rmtree(rig.paths.root / "models")
    run = ended()
    assert isinstance(run.failure, CheckpointError)
    assert 'the model "counted" of phase pretrain cannot be read' in (rig.session.error or "")
    assert rig.phase("pretrain").state is State.COMPLETED


def test_a_finished_phase_is_read_only_where_the_next_one_needs_it(
    rig: Rig, phases: Phases, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    real = ModelStore.load

    def load(store: ModelStore, phase: str) -> Any:
        loads.append(phase)
        return real(store, phase)

    monkeypatch.setattr(ModelStore, "load", load)
    ended()
    assert loads == ["pretrain"]


def test_models_of_a_phase_that_was_killed_while_ending_are_removed(
    rig: Rig, phases: Phases, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        real = ModelStore.save

        def save(store: ModelStore, phase: str, produced: Any) -> Any:
            real(store, phase, produced)
            raise TrainingError("killed between the model and its record")

        patch.setattr(ModelStore, "save", save)
        assert ended().outcome is State.FAILED
    assert rig.registry.fetch(queries.models(rig.session_id, 10)) == []
    assert ended().outcome is State.COMPLETED
    known = {row.id for row in rig.registry.fetch(queries.models(rig.session_id, 10))}
    assert {entry.name for entry in (rig.paths.root / "models").iterdir()} == known


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_is_no_exception_ends_the_thread_and_the_next_look_finds_it_interrupted(
    engine: Engine, rig: Rig, phases: Phases, ended: Ended
) -> None:
    def leave() -> object:
        raise SystemExit(3)

    phases.pretrain.during = at(5, leave)
    run = ended()
    assert run.outcome is State.INTERRUPTED
    assert engine.reconcile() == [rig.session_id]
    assert rig.session.state is State.INTERRUPTED
    phases.pretrain.during = Counting().during
    assert ended().outcome is State.COMPLETED


def test_a_full_disk_at_the_end_hangs_nothing_and_is_found_by_the_next_look(
    engine: Engine, rig: Rig, phases: Phases, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = Registry.write, threading.Event()

    def write(registry: Registry, change: Callable[..., Any]) -> Any:
        if full.is_set():
            raise RegistryError("the disk is full")
        return real(registry, change)

    def fill() -> object:
        full.set()
        raise TrainingError("no space left")

    monkeypatch.setattr(Registry, "write", write)
    phases.pretrain.during = at(5, fill)
    run = engine.host(rig.session_id)
    assert run.wait(PATIENCE)
    assert run.outcome is State.FAILED
    assert not is_held(rig.paths.lease)
    assert rig.session.state == "running"
    assert any("could not be recorded: the disk is full" in line["message"] for line in rig.log())
    full.clear()
    assert engine.reconcile() == [rig.session_id]
    assert rig.session.state == "interrupted"


def test_the_end_is_told_last_of_all(engine: Engine, rig: Rig, phases: Phases) -> None:
    seen: list[tuple[State | None, bool, State]] = []
    run: HostedRun

    def on_end() -> None:
        assert engine.run is not None
        seen.append((engine.run.outcome, is_held(rig.paths.lease), rig.session.state))

    run = engine.host(rig.session_id, on_end)
    assert run.wait(PATIENCE)
    assert seen == [(State.COMPLETED, False, State.COMPLETED)]


def test_a_run_that_was_taken_for_dead_ends_without_a_word_of_its_own(
    engine: Engine, rig: Rig, phases: Phases
) -> None:
    def lose_the_folder() -> None:
        rig.paths.root.rename(rig.paths.root.with_name("moved"))
        assert engine.reconcile() == [rig.session_id]

    phases.pretrain.during = at(2, lose_the_folder)
    run = engine.host(rig.session_id)
    assert run.wait(PATIENCE)
    assert run.outcome is State.FAILED
    assert rig.session.state is State.INTERRUPTED


# --- threads and requests -------------------------------------------------------------------------------


def test_requests_by_rows_reach_a_hosted_run(engine: Engine, rig: Rig, phases: Phases) -> None:
    """Pause, checkpoint, resume and stop as a person asks for them, with every thread at work."""
    phases.pretrain.steps = 100_000  # with a checkpoint every fourth: it outlives the asking
    run = engine.host(rig.session_id)
    begun = until(lambda: rig.session.state is State.RUNNING)
    told: list[CommandRow] = []
    states: list[State] = []
    for kind in ("pause", "checkpoint", "resume", "stop"):
        told.append(engine.request(rig.session_id, kind))
        assert until(lambda: rig.answer(told[-1])[0] not in ("requested", "claimed"))
        states.append(rig.session.state)
    assert begun
    assert run.wait(PATIENCE)
    assert run.outcome is State.STOPPED
    assert [rig.answer(command)[0] for command in told] == ["done"] * 4
    assert states[:3] == [State.PAUSED, State.PAUSED, State.RUNNING]


def test_a_stop_before_the_first_step_is_obeyed(engine: Engine, rig: Rig, phases: Phases) -> None:
    phases.pretrain.preparing = lambda ctx: pytest.fail("it prepared data")
    run = HostedRun(engine.home, engine.registry, rig.session)
    run.stop("stopped by SIGTERM")
    run.start()
    assert run.wait(PATIENCE)
    assert run.outcome is State.STOPPED
    assert rig.session.state is State.STOPPED


def test_what_nobody_took_before_the_end_is_answered(engine: Engine, rig: Rig, phases: Phases) -> None:
    asked: list[CommandRow] = []

    def late(ctx: PhaseContext) -> None:
        asked.append(engine.request(rig.session_id, "checkpoint"))
        assert until(lambda: rig.answer(asked[0])[0] == "claimed")

    phases.forging.measuring = late
    run = engine.host(rig.session_id)
    assert run.wait(PATIENCE)
    assert run.outcome is State.COMPLETED
    assert rig.answer(asked[0]) == ("refused", "the run ended first")


def test_a_resumed_run_keeps_its_thread_count(engine: Engine, phases: Phases) -> None:
    session = engine.create(counting_config(threads=None))
    rig, counts = Rig(engine, session), []

    def note(ctx: PhaseContext) -> None:
        counts.append(torch.get_num_threads())

    phases.pretrain.preparing = phases.forging.preparing = note
    phases.pretrain.during = at(5, fail(TrainingError("once")))
    for cores in ({0, 1, 2}, {0}, {0}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: cores)
            run = engine.host(session)
            assert run.wait(PATIENCE)
        phases.pretrain.during = at(9, fail(TrainingError("twice"))) if len(counts) == 1 else at(-1, list)
    assert run.outcome is State.COMPLETED
    assert counts == [3, 3, 3, 3]
    assert rig.events("inexact") == []


def test_reconciling_while_it_runs_does_not_touch_it(engine: Engine, rig: Rig, phases: Phases) -> None:
    found: list[list[str]] = []
    phases.pretrain.during = at(3, lambda: found.append(engine.reconcile()))
    run = engine.host(rig.session_id)
    assert run.wait(PATIENCE)
    assert found == [[]]
    assert run.outcome is State.COMPLETED


def test_a_disk_that_stalls_for_metrics_recovers_with_every_point(
    rig: Rig, phases: Phases, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = MetricsWriter.append, threading.Event()

    def append(writer: MetricsWriter, records: Any) -> int:
        if full.is_set():
            raise OSError(28, "No space left on device")
        return real(writer, records)

    def during(ctx: PhaseContext, step: int) -> None:
        if step == 4:
            full.set()
        if step == 6:
            # Until the recorder has tried, and said so.
            assert until(lambda: bool(rig.events("stall")))
            full.clear()

    monkeypatch.setattr(MetricsWriter, "append", append)
    phases.pretrain.during = during
    assert ended().outcome is State.COMPLETED
    assert [step for step, _ in rig.points()["loss"]] == list(range(1, STEPS + 1))
    assert len(rig.events("stall")) == 2


def test_kills_of_other_processes_are_noted_while_it_runs(
    rig: Rig, phases: Phases, ended: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "machine")
    monkeypatch.setattr(host, "NOTE_SECONDS", 0.0)
    monkeypatch.setattr(host, "Kernel", lambda: machine.kernel)

    def noted() -> bool:
        info = read_info(rig.paths.lease)
        return info is not None and info.oom_kills.get(str(machine.own)) == 812

    def strike() -> None:
        machine.kills(812)
        assert until(noted)

    phases.pretrain.during = at(3, strike)
    assert ended().outcome is State.COMPLETED


def test_the_machine_is_sampled_while_it_runs(
    rig: Rig, phases: Phases, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge.engine.sampler.Sampler._run", sample_once)
    ended()
    assert rig.points("system")["rss_bytes"][0][1] > 1 << 20


def sample_once(sampler: Any) -> None:
    sampler._telemetry.log("system", 1, sampler.sample())


def test_a_folder_that_vanishes_fails_the_run(rig: Rig, phases: Phases, engine: Engine) -> None:
    phases.pretrain.during = at(2, lambda: durable.remove_tree(rig.paths.root))
    run = engine.host(rig.session_id)
    assert run.wait(PATIENCE)
    assert run.outcome is State.FAILED
    assert "is gone" in (rig.session.error or "")
    assert not Path(rig.paths.root).exists()


# --- a lease file that somebody removes -----------------------------------------------------------------


def test_a_lease_file_that_was_removed_is_put_back(engine: Engine, rig: Rig, phases: Phases) -> None:
    def lose() -> None:
        rig.paths.lease.unlink()
        run = engine.run
        assert run is not None
        assert engine.reconcile() == []
        run.keep_lease()
        assert is_held(rig.paths.lease)
        info = read_info(rig.paths.lease)
        assert info is not None
        assert info.token == rig.session.lease
        run.keep_lease()

    phases.pretrain.during = at(4, lose)
    run = engine.host(rig.session_id)
    assert run.wait(PATIENCE)
    assert run.settle()
    assert run.outcome is State.COMPLETED
    assert rig.events("lease") == ["somebody removed the lease file of this live session; it was put back"]


@pytest.mark.parametrize("still_there", [True, False])
def test_a_session_that_another_took_is_left_to_it(
    engine: Engine, rig: Rig, phases: Phases, still_there: bool
) -> None:
    held: list[Lease] = []

    def lose() -> None:
        rig.paths.lease.unlink()
        held.append(Lease.acquire(rig.paths.lease, "otter"))
        if not still_there:
            held[0].release()
        mine = rig.session.lease
        assert mine is not None
        rig.registry.write(lambda c: edits.drop_lease(c, rig.session_id, mine))
        rig.registry.write(lambda c: edits.take_lease(c, rig.session_id, "OTHER", "pid 9 on there", 1.0))
        run = engine.run
        assert run is not None
        run.keep_lease()

    phases.pretrain.during = at(7, lose)
    run = engine.host(rig.session_id)
    assert run.wait(PATIENCE)
    assert run.settle()
    assert (run.outcome, run.exit_code) == (State.INTERRUPTED, 5)
    # The one of step 8 was due.
    assert rig.checkpoints() == [4]
    assert (rig.session.state, rig.session.lease) == (State.RUNNING, "OTHER")
    (said,) = rig.events("lease")
    assert said.startswith("otter has another owner by now")
    for lease in held:
        lease.release()
