"""Cleaning up round a run and telling a person: it happens, it is said, and it can do the run no harm."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forge.config import change_settings, dump_yaml
from forge.engine import Engine, HostedRun, aftercare, command, runner
from forge.engine.aftercare import AGAIN_SECONDS, Aftercare
from forge.engine.command import Ran
from forge.engine.context import RETRY_SECONDS
from forge.engine.journal import Journal
from forge.engine.outbox import Outbox
from forge.errors import ForgeError, RegistryError, TrainingError
from forge.registry import State, cleanup, edits, queries
from tests.unit.engine.rig import Counting, Rig, ScriptedControl, counting_config, drive

DAY = 86_400.0
PATIENCE = 60


def aged(engine: Engine, name: str, days: float) -> str:
    """A completed session that ended so many days ago, with a megabyte of files."""
    session_id, then = engine.create(counting_config(), name), time.time() - days * DAY
    engine.home.session(session_id).metrics.write_bytes(b"x" * 1_000_000)

    def end(c: Any) -> None:
        for state in (State.RUNNING, State.COMPLETED):
            edits.set_session_state(c, session_id, state, now=then)

    engine.registry.write(end)
    return session_id


def trashed(engine: Engine) -> list[str]:
    return [row.name for row in engine.registry.fetch(cleanup.trash())]


def age_trash(engine: Engine, days: float) -> None:
    engine.registry.write(
        lambda c: c.execute("UPDATE trash SET trashed_at = trashed_at - ?", [days * DAY]).rowcount
    )


class Commands:
    """Stands for the person's command; remembers what each was told."""

    def __init__(self, answer: Callable[[], Ran] = lambda: Ran(0, "")) -> None:
        self.told: list[dict[str, str]] = []
        self.answer = answer

    def __call__(self, line: str, variables: dict[str, str], folder: Path) -> Ran:
        self.told.append({"line": line, **variables})
        return self.answer()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> Commands:
    made = Commands()
    monkeypatch.setattr(command, "run", made)
    change_settings(engine.home.settings, ["notify.on_finish=tell"])
    return made


@pytest.fixture
def phase(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(runner, "make_phase", lambda name, scope: counting)
    return counting


@pytest.fixture
def care(rig: Rig) -> Aftercare:
    journal = Journal(Outbox(rig.registry), rig.session_id, rig.paths)
    return Aftercare(rig.engine.home, rig.registry, rig.session, journal, rig.clock)


def hosted(engine: Engine, session_id: str) -> HostedRun:
    run = engine.host(session_id)
    assert run.wait(PATIENCE)
    assert run.settle()
    return run


# --- cleaning up by itself ------------------------------------------------------------------------------


def test_a_run_cleans_up_when_it_begins_and_when_it_ends(rig: Rig, phase: Counting) -> None:
    engine = rig.engine
    aged(engine, "old", 40)
    begun = threading.Event()

    def during(ctx: Any, step: int) -> None:
        if step == 1 and not begun.is_set():
            begun.set()
            deadline = time.monotonic() + PATIENCE
            while trashed(engine) != ["old"]:
                assert time.monotonic() < deadline
                threading.Event().wait(0.01)
            aged(engine, "older", 50)

    phase.during = during
    run = hosted(engine, rig.session_id)
    assert run.outcome is State.COMPLETED
    assert sorted(trashed(engine)) == ["old", "older"]
    told = rig.events("cleanup")
    assert len(told) == 2
    assert told[0].startswith(
        "cleanup moved 1 session (1.00 MB) to the trash: old (ended 40 d ago, the limit"
    )
    assert "older (ended 50 d ago" in told[1]
    assert [line["message"] for line in rig.log() if line["kind"] == "cleanup"] == told
    assert {row.actor for row in engine.registry.fetch(cleanup.audit(10))} == {"retention.auto"}
    assert engine.home.trash.joinpath(aged_id(engine, "old")).is_dir()


def aged_id(engine: Engine, name: str) -> str:
    (row,) = engine.registry.fetch(queries.find_sessions(name))[:1]
    return row.id


@pytest.mark.parametrize(
    "settings",
    [["retention.auto=false"], ["retention.max_age_days=100", "retention.max_failed_age_days=100"]],
)
def test_it_is_left_to_a_person_who_wants_that(rig: Rig, phase: Counting, settings: list[str]) -> None:
    aged(rig.engine, "old", 40)
    change_settings(rig.engine.home.settings, settings)
    assert hosted(rig.engine, rig.session_id).outcome is State.COMPLETED
    assert trashed(rig.engine) == []
    assert rig.events("cleanup") == []


def test_a_stop_is_not_followed_by_a_cleanup(care: Aftercare, rig: Rig, commands: Commands) -> None:
    aged(rig.engine, "old", 40)
    care.ended(State.STOPPED, "stopped by anna")
    assert care.wait(PATIENCE)
    assert trashed(rig.engine) == []
    assert [told["FORGE_MESSAGE"] for told in commands.told] == ["stopped by anna"]


def test_what_was_long_in_the_trash_is_deleted_and_said(care: Aftercare, rig: Rig) -> None:
    aged(rig.engine, "old", 40)
    care.begun()
    assert care.wait(PATIENCE)
    age_trash(rig.engine, 8)
    care.begun()
    assert care.wait(PATIENCE)
    assert trashed(rig.engine) == []
    assert (
        "cleanup deleted 1 session that had been in the trash for the grace period"
        in rig.events("cleanup")[1]
    )


def test_a_clock_that_jumps_postpones_it_and_says_so_once(care: Aftercare, rig: Rig) -> None:
    aged(rig.engine, "old", 40)
    then = time.time() - 20 * DAY
    rig.registry.write(lambda c: c.execute("INSERT INTO clock VALUES (1, ?, NULL)", [then]).rowcount)
    for _ in range(2):
        care.begun()
        assert care.wait(PATIENCE)
    assert trashed(rig.engine) == []
    (event,) = rig.events("cleanup")
    assert event.startswith("cleanup waits until ")
    assert len([line for line in rig.log() if line["kind"] == "cleanup"]) == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ForgeError("another process is cleaning up"), "another process is cleaning up"),
        (RegistryError("locked"), "locked"),
        (ValueError("a mistake"), "ValueError: a mistake"),
    ],
)
def test_a_cleanup_that_fails_fails_nothing_else(
    rig: Rig, phase: Counting, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(aftercare, "sweep", fail)
    assert hosted(rig.engine, rig.session_id).outcome is State.COMPLETED
    assert [line["message"] for line in rig.log() if line["kind"] == "care"] == [told, told]
    assert rig.events("cleanup", "care") == []


def test_settings_that_cannot_be_read_are_an_event_and_touch_nothing(rig: Rig, phase: Counting) -> None:
    aged(rig.engine, "old", 40)
    rig.engine.home.settings.write_text("retention: {max_age_days: soon}\n", "utf-8")
    assert hosted(rig.engine, rig.session_id).outcome is State.COMPLETED
    assert trashed(rig.engine) == []
    assert "retention.max_age_days" in rig.events("settings")[0]


def test_a_slow_cleanup_delays_neither_the_run_nor_its_end(
    rig: Rig, phase: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(*_: Any, **__: Any) -> None:
        assert go_on.wait(PATIENCE)
        raise ForgeError("enough")

    monkeypatch.setattr(aftercare, "sweep", slow)
    run = rig.engine.host(rig.session_id)
    assert run.wait(PATIENCE)
    assert run.outcome is State.COMPLETED
    assert rig.session.lease is None
    go_on.set()
    assert run.settle()


# --- telling a person -----------------------------------------------------------------------------------


def test_completed(rig: Rig, phase: Counting, commands: Commands) -> None:
    hosted(rig.engine, rig.session_id)
    assert commands.told == [
        {
            "line": "tell", "FORGE_SESSION": "otter", "FORGE_SESSION_ID": rig.session_id,
            "FORGE_STATE": "completed", "FORGE_MESSAGE": "completed", "FORGE_HOME": str(rig.engine.home.root),
        }
    ]  # fmt: skip


def test_failed(rig: Rig, phase: Counting, commands: Commands) -> None:
    def fail(ctx: Any, step: int) -> None:
        raise TrainingError("out of memory\x1b[2J")

    phase.during = fail
    assert hosted(rig.engine, rig.session_id).outcome is State.FAILED
    (told,) = commands.told
    assert (told["FORGE_STATE"], told["FORGE_MESSAGE"]) == ("failed", "out of memory\\x1b[2J")


def test_a_stop_that_somebody_asked_for_tells_once_and_a_pause_nobody(
    rig: Rig, phase: Counting, commands: Commands
) -> None:
    def during(ctx: Any, step: int) -> None:
        if step == 2:
            rig.engine.request(rig.session_id, "pause")
            rig.engine.request(rig.session_id, "resume")
        if step == 5:
            rig.engine.request(rig.session_id, "stop")

    phase.during, phase.steps = during, 10_000
    assert hosted(rig.engine, rig.session_id).outcome is State.STOPPED
    assert [(told["FORGE_STATE"], told["FORGE_MESSAGE"]) for told in commands.told] == [
        ("stopped", "stopped")
    ]


def test_a_run_that_pauses_by_itself_tells_once(
    rig: Rig, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))

    def later() -> None:
        rig.clock.now += RETRY_SECONDS

    def room() -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
        later()

    with rig.attempt(control=ScriptedControl(later, later, room)) as ctx:
        drive(ctx, Counting())
        assert rig.scope.care.wait(PATIENCE)
    (told,) = commands.told
    assert told["FORGE_STATE"] == "paused"
    assert told["FORGE_MESSAGE"].startswith("no checkpoint at step 4: 0 MB are free where")


def test_what_it_prints_is_in_the_log_and_a_failure_is_an_event(
    care: Aftercare, rig: Rig, commands: Commands
) -> None:
    commands.answer = lambda: Ran(0, "sent\n")
    care.ended(State.COMPLETED, "done")
    assert care.wait(PATIENCE)
    commands.answer = lambda: Ran(7, "no network\x1b]0;x\x07\n")
    care.ended(State.COMPLETED, "done")
    assert care.wait(PATIENCE)
    lines = [line["message"] for line in rig.log() if line["kind"] == "on_finish"]
    assert lines == [
        "notify.on_finish ended with exit code 0: sent",
        "notify.on_finish ended with exit code 7: no network\x1b]0;x\x07",
        "notify.on_finish ended with exit code 7; the session's log has its output",
    ]
    assert rig.events("on_finish") == lines[2:]


def test_a_command_that_cannot_be_started_is_an_event(care: Aftercare, rig: Rig, commands: Commands) -> None:
    def fail() -> Ran:
        raise OSError(11, "Resource temporarily unavailable")

    commands.answer = fail
    care.ended(State.FAILED, "why")
    assert care.wait(PATIENCE)
    assert rig.events("on_finish") == ["notify.on_finish cannot be run: Resource temporarily unavailable"]


def test_a_command_that_hangs_does_not_keep_the_engine_from_closing(
    care: Aftercare, commands: Commands
) -> None:
    go_on = threading.Event()

    def hang() -> Ran:
        go_on.wait(PATIENCE)
        return Ran(0, "")

    commands.answer = hang
    care.ended(State.COMPLETED, "done")
    assert not care.wait(0)
    go_on.set()
    assert care.wait(PATIENCE)


# --- room for a checkpoint ------------------------------------------------------------------------------


def test_a_full_disk_is_cleaned_first_and_the_run_does_not_even_pause(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been in the trash for the grace period makes room."""
    aged(rig.engine, "old", 40)
    aftercare_of(rig).make_room()
    age_trash(rig.engine, 8)
    folder = rig.engine.home.trash

    def usage(path: Any) -> SimpleNamespace:
        return SimpleNamespace(free=0 if any(folder.iterdir()) else 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with rig.attempt(control=ScriptedControl()) as ctx:
        drive(ctx, Counting())
    assert rig.events("disk") == []
    assert "cleanup deleted 1 session" in rig.events("cleanup")[1]
    assert rig.checkpoints() == [8, 12]


def aftercare_of(rig: Rig) -> Aftercare:
    return rig.build().care


def test_a_move_into_the_trash_frees_nothing_and_the_pause_says_so(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(rig.engine, "old", 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))

    def empty() -> None:
        assert trashed(rig.engine) == ["old"]
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
        rig.clock.now += RETRY_SECONDS

    with rig.attempt(control=ScriptedControl(empty)) as ctx:
        drive(ctx, Counting())
    (told,) = rig.events("disk")
    assert '; 1 MB are in the trash, "forge trash empty" frees them. Paused; tried again' in told
    assert rig.events("continue") == ["the checkpoint of step 4 is written"]


def test_a_disk_that_fills_while_writing_is_cleaned_for_the_next_try(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forge import durable

    aged(rig.engine, "old", 40)
    real, full = durable.write_file, True

    def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
        if full:
            raise OSError(28, "No space left on device", str(path))
        real(path, data, mode)

    def free() -> None:
        nonlocal full
        full = False
        rig.clock.now += RETRY_SECONDS

    monkeypatch.setattr(durable, "write_file", write_file)
    with rig.attempt(control=ScriptedControl(free)) as ctx:
        drive(ctx, Counting())
    assert trashed(rig.engine) == ["old"]
    assert '"forge trash empty" frees them' in rig.events("disk")[0]


def test_who_waits_for_room_looks_now_and_then(care: Aftercare, rig: Rig) -> None:
    assert care.make_room() == ""
    aged(rig.engine, "old", 40)
    rig.clock.now += AGAIN_SECONDS - 1
    assert care.make_room() == ""
    rig.clock.now += 1
    assert "1 MB are in the trash" in care.make_room()


def test_without_leave_nothing_is_moved_for_room(care: Aftercare, rig: Rig) -> None:
    aged(rig.engine, "old", 40)
    change_settings(rig.engine.home.settings, ["retention.auto=false"])
    assert care.make_room() == ""
    assert trashed(rig.engine) == []


def test_the_configuration_of_a_session_cannot_name_a_command() -> None:
    """A file that somebody passed on must not run anything."""
    assert "on_finish" not in dump_yaml(counting_config())
