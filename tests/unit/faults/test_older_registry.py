"""A registry that is put back from an older copy: what the folders hold and it does not know is not lost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from forge.audit import Kind, audit
from forge.engine import Engine, runner
from forge.home import Home
from forge.registry import AuditRow, State, cleanup, queries
from forge.retention import Reconciled, reconcile
from tests.unit.cli.conftest import invoke
from tests.unit.engine.rig import Counting, counting_config
from tests.unit.faults.conftest import LATER, without_waiting_for_the_medium


@dataclass
class Backup:
    """A home, one session of it, and a copy of its registry from when that was stopped."""

    home: Home
    session_id: str
    copy: Path

    def put_back(self) -> None:
        """The older registry in the place of the newer one."""
        for end in ("-wal", "-shm"):
            self.home.registry.with_name(self.home.registry.name + end).unlink(missing_ok=True)
        shutil.copy(self.copy, self.home.registry)

    def models(self) -> dict[str, bytes]:
        """The weights of all models on disk, by the name of their folder."""
        folder = self.home.session(self.session_id).models
        return {entry.name: (entry / "model.safetensors").read_bytes() for entry in folder.iterdir()}

    def states(self) -> list[State]:
        """Of the session, and of its phases."""
        with _engine(self.home) as engine:
            runs = engine.registry.fetch(queries.phase_runs(self.session_id))
            return [engine.session(self.session_id).state, *(run.state for run in runs)]

    def recorded(self) -> set[str]:
        """Ids of the models that the registry knows."""
        with _engine(self.home) as engine:
            return {row.id for row in engine.registry.fetch(queries.models(self.session_id, 10))}

    def deletions(self) -> list[AuditRow]:
        """The audit table."""
        with _engine(self.home) as engine:
            return engine.registry.fetch(cleanup.audit(20, self.session_id))

    def repair(self) -> Reconciled:
        """As `forge audit --repair` does."""
        with _engine(self.home) as engine:
            return reconcile(self.home, engine.registry, time.time() + LATER)


class _engine:
    def __init__(self, home: Home) -> None:
        self._engine = Engine(home)

    def __enter__(self) -> Engine:
        return self._engine

    def __exit__(self, *what: object) -> None:
        self._engine.shutdown()


def stop_at(step: int) -> Counting:
    """A phase that fails at a step, once."""

    def during(ctx: object, at: int) -> None:
        if at == step:
            raise ZeroDivisionError

    return Counting(during=during)


@pytest.fixture
def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backup]:
    home, copy = Home(tmp_path / "home"), tmp_path / "registry.db"
    attempts = iter([stop_at(6)])
    monkeypatch.setattr(runner, "make_phase", lambda name, scope: next(attempts, Counting()))
    with without_waiting_for_the_medium():
        with _engine(home) as engine:
            session_id = engine.create(counting_config(), "otter")
            _run(engine, session_id)
        shutil.copy(home.registry, copy)
        with _engine(home) as engine:
            _run(engine, session_id)
        yield Backup(home, session_id, copy)


def _run(engine: Engine, session_id: str) -> None:
    run = engine.host(session_id)
    assert run.wait(60)
    assert run.settle()


def test_finished_models_are_taken_back(backup: Backup) -> None:
    before = backup.models()
    assert backup.states() == [State.COMPLETED] * 3
    assert len(before) == 2
    backup.put_back()
    assert backup.states()[0] is State.FAILED
    found = audit(backup.home, time.time() + LATER).findings
    assert {finding.kind for finding in found} >= {Kind.MODEL}
    result = backup.repair()
    assert result.problems == []
    assert backup.models() == before
    assert backup.recorded() == before.keys()
    assert backup.states() == [State.COMPLETED] * 3
    adopted = [row for row in backup.deletions() if row.action == "adopt"]
    assert {str(row.path).rpartition("/")[2] for row in adopted} == before.keys()
    assert audit(backup.home, time.time() + LATER).findings == []
    assert backup.repair() == Reconciled()
    with _engine(backup.home) as engine:
        reports = [run.report for run in engine.registry.fetch(queries.phase_runs(backup.session_id))]
        assert all(report and report["title"] == "Counting" for report in reports)
        events = engine.registry.fetch(queries.latest_events(backup.session_id, 10))
    assert [event.phase for event in events if event.kind == "adopted"]


def test_the_command_says_so(backup: Backup) -> None:
    before = backup.models()
    backup.put_back()
    assert invoke(backup.home, "audit").code == 1
    result = invoke(backup.home, "audit", "--repair")
    assert (result.code, backup.models()) == (0, before)
    assert "its models are recorded again" in result.out


def test_resume_takes_them_back_and_trains_nothing(backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    before = backup.models()
    backup.put_back()
    monkeypatch.setattr(runner, "make_phase", lambda name, scope: pytest.fail("it is trained again"))
    with _engine(backup.home) as engine:
        _run(engine, backup.session_id)
    assert backup.states() == [State.COMPLETED] * 3
    assert backup.models() == before


def test_without_a_log_the_last_phase_is_done_again_and_its_model_kept_until_then(backup: Backup) -> None:
    before = backup.models()
    backup.home.session(backup.session_id).log.unlink()
    backup.put_back()
    backup.repair()
    # That a later phase had begun proves the first one; nothing proves the last.
    assert backup.models() == before
    assert backup.states()[1] is State.COMPLETED
    assert audit(backup.home, time.time() + LATER).findings == []
    with _engine(backup.home) as engine:
        _run(engine, backup.session_id)
    assert backup.states() == [State.COMPLETED] * 3
    after = backup.models()
    assert sorted(after.values()) == sorted(before.values())
    assert after.keys() == backup.recorded()
    (gone,) = before.keys() - after.keys()
    (row,) = [row for row in backup.deletions() if row.action == "tidy"]
    assert (row.path, row.bytes) == (f"sessions/{backup.session_id}/models/{gone}", row.bytes)
    assert "was the same as the recorded model counted" in row.detail


def test_one_that_differs_is_set_aside(backup: Backup) -> None:
    backup.put_back()
    with _engine(backup.home) as engine:
        folder = backup.home.session(backup.session_id).models
        hidden = folder.parent.parent.parent / "hidden"
        folder.rename(hidden)
        backup.home.session(backup.session_id).log.unlink()
        _run(engine, backup.session_id)
    _alter(hidden)
    for entry in hidden.iterdir():
        entry.rename(folder / entry.name)
    before = backup.models()
    assert len(before) == 4
    backup.repair()
    after = backup.models()
    assert sorted(after.values()) == sorted(before.values())
    assert len([name for name in after if name.startswith("aside-")]) == 2
    assert {row.action for row in backup.deletions()} >= {"aside"}
    assert audit(backup.home, time.time() + LATER).findings == []
    assert backup.repair() == Reconciled()


def _alter(models: Path) -> None:
    """Other weights, with a card that is theirs."""
    import hashlib
    import json

    for folder in models.iterdir():
        weights = bytearray((folder / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (folder / "model.safetensors").write_bytes(weights)
        card = json.loads((folder / "card.json").read_text())
        card["sha256"] = hashlib.sha256(weights).hexdigest()
        (folder / "card.json").write_text(json.dumps(card))


def test_a_damaged_one_of_a_phase_that_goes_on_is_deleted_and_written_down(backup: Backup) -> None:
    backup.put_back()
    backup.home.session(backup.session_id).log.unlink()
    damaged = min(backup.home.session(backup.session_id).models.iterdir())
    (damaged / "model.safetensors").write_bytes(b"cut")
    backup.repair()
    assert not damaged.exists()
    (row,) = [row for row in backup.deletions() if row.action == "tidy"]
    assert row.path == f"sessions/{backup.session_id}/models/{damaged.name}"
