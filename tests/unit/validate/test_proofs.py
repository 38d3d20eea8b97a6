"""The proofs themselves, as small as they can be: each finds what is true, and each control shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from forge import durable
from forge.cli.console import portable
from forge.config import load_config
from forge.engine import Engine
from forge.home import Home
from forge.quant import linear
from forge.registry import MetricsWriter
from forge.validate import Figure, Result, budget, child, durability, load, memory, screen, ste, wal
from forge.validate.job import CannotRunError, Job
from forge.validate.noise import Noise
from forge.validate.pairs import summarise
from forge.validate.readers import Readers, total
from forge.validate.result import parse
from forge.validate.writers import Writers


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    """Figures by what they are of."""
    return {figure.name: figure for figure in figures}


@pytest.fixture
def session(tmp_path: Path) -> tuple[Home, str]:
    """A session that was made, with a metrics file."""
    home = Home(tmp_path / "home")
    engine = Engine(home)
    session_id = engine.create(load_config("tiny"), "counted")
    engine.shutdown()
    writer = MetricsWriter(home.session(session_id).metrics)
    writer.append([("pretrain", 1, {"loss": 3.0})])
    writer.close()
    return home, session_id


# --- the estimator --------------------------------------------------------------------------------------


@pytest.fixture
def few_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training as short as it shows anything."""
    torch.set_num_threads(1)
    train = ste._train
    monkeypatch.setattr(ste, "_train", lambda model, text, steps: train(model, text, 6))


@pytest.mark.usefixtures("few_seeds")
def test_only_the_estimator_lets_a_gradient_through(tmp_path: Path) -> None:
    figures = ste.prove(Job(tmp_path, quick=True))
    found = by_name(figures)
    assert Result("ste", tuple(figures)).verdict == "pass", Result("ste", tuple(figures)).why
    blind = found["layers there that `grad is not None` passes"]
    assert blind.value == blind.bound == 2 * 2 * 7
    assert found["largest gradient, no STE, scale frozen"].value == 0
    assert found["the loss falls by, no STE, scale frozen"].value == 0


@pytest.mark.usefixtures("few_seeds")
def test_an_estimator_that_passes_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        linear._StraightThrough,
        "backward",
        staticmethod(lambda ctx, *grads: (torch.zeros_like(grads[0]), None)),
    )
    assert Result("ste", tuple(ste.prove(Job(tmp_path, quick=True)))).verdict == "fail"


# --- the registry ---------------------------------------------------------------------------------------


def test_immediate_writers_lose_nothing_and_plain_ones_are_locked_out(session: tuple[Home, str]) -> None:
    home, session_id = session
    with Writers(home, session_id, ["immediate"] * 2) as writers:
        with writers.working():
            _until(lambda: wal._number(home, session_id) >= 40)
        ours = writers.total()
    assert ours.errors == []
    assert ours.done == len(ours.seconds) == wal._number(home, session_id)
    with Writers(home, session_id, ["plain"] * 3) as writers:
        with writers.working():
            before = wal._number(home, session_id)
            _until(lambda: wal._number(home, session_id) >= before + 100)
        plain = writers.total()
    assert any("locked" in error for error in plain.errors)


def test_readers_look_only_when_told_to_and_keep_their_errors(session: tuple[Home, str]) -> None:
    home, session_id = session
    with Readers(home, session_id, 1) as readers:
        assert total(readers.reports()).polls == 0
        with readers.working(1):
            pass
        assert total(readers.reports()).polls >= 1
        assert total(readers.reports()).errors == []
        engine = Engine(home)
        engine.registry.write(lambda c: c.execute("ALTER TABLE session RENAME TO gone"))
        engine.registry.close()
        with readers.working(1):
            pass
        assert "no such table: session" in total(readers.reports()).errors[0]


def test_a_rollback_journal_proves_nothing_about_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "WAL_SAFE", False)
    with pytest.raises(CannotRunError, match=r"WAL-reset bug.*pip install pysqlite3"):
        wal.prove(Job(tmp_path))


# --- durability -----------------------------------------------------------------------------------------


@pytest.fixture
def only_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """One operation is enough."""
    monkeypatch.setattr(durability, "OPERATIONS", durability.OPERATIONS[:1])


@pytest.mark.usefixtures("only_a_save")
def test_no_cut_loses_what_was_acknowledged_and_no_fsync_can_be_left_out(tmp_path: Path) -> None:
    figures = durability.prove(Job(tmp_path, quick=True))
    assert Result("durability", tuple(figures)).verdict == "pass"
    (control,) = [figure for figure in figures if figure.control]
    assert control.value == control.bound
    assert control.value > 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["template"]


@pytest.mark.usefixtures("only_a_save")
def test_a_forge_that_never_waits_for_the_medium_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "sync_folder", lambda path: None)
    result = Result("durability", tuple(durability.prove(Job(tmp_path, quick=True))))
    assert result.verdict == "fail"
    assert "homes with a loss, such as after save, effect" in result.why


def test_elsewhere_than_on_linux_no_power_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.validate.durability.sys.platform", "darwin")
    with pytest.raises(CannotRunError, match="only Linux"):
        durability.prove(Job(tmp_path))


# --- costs ----------------------------------------------------------------------------------------------


def _disturbed(measured: int, disturbed: int) -> Noise:
    noise = Noise()
    noise.measured, noise.disturbed = measured, disturbed
    return noise


@pytest.mark.parametrize(
    ("ratios", "disturbed", "verdict"),
    [
        ([1.01, 1.0, 1.015], 0, "pass"),
        ([1.2, 1.21, 1.19], 0, "fail"),
        ([0.9, 1.06, 1.3], 0, "cannot-run"),
        ([0.8, 1.0, 1.3], 0, "cannot-run"),
        ([0.98, 1.0, 1.05], 0, "pass"),
        ([1.2, 1.21, 1.19], 3, "cannot-run"),
        # A cost below the limit stands, whatever disturbed it: that can only have added to it.
        ([1.01, 1.0, 1.015], 3, "pass"),
    ],
)
def test_a_cost_counts_only_where_it_can_be_told(ratios: list[float], disturbed: int, verdict: str) -> None:
    found = summarise(ratios, [1.0] * len(ratios))
    figure = load.cost("readers cost", found, 2.0, _disturbed(3, disturbed))
    assert Result("wal", (figure,)).verdict == verdict


@pytest.mark.parametrize(
    ("ratios", "why"),
    [([0.9, 1.06, 1.3], "from its limit"), ([0.5, 0.7, 0.9], "the machine is too restless")],
)
def test_why_a_cost_cannot_be_told_is_said_truly(ratios: list[float], why: str) -> None:
    found = summarise(ratios, [1.0] * len(ratios))
    assert why in load.cost("readers cost", found, 2.0, _disturbed(3, 0)).doubt


def test_burning_takes_every_core_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "usable_cores", lambda: 1)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr("forge.validate.load.subprocess.Popen", start)
    with load.burning():
        assert [each.poll() for each in started] == [None, None]
    assert all(each.poll() is not None for each in started)


# --- the others, where they cannot run -------------------------------------------------------------------


def test_without_the_screen_nothing_is_said_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.validate.screen.importlib.util.find_spec", lambda _: None)
    with pytest.raises(CannotRunError, match="forge_tui is not installed"):
        screen.prove(Job(tmp_path))


def test_without_a_card_nothing_is_said_about_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge.validate.memory.Card.open", lambda: None)
    with pytest.raises(CannotRunError, match="no NVIDIA GPU here"):
        memory.prove(Job(tmp_path))
    with pytest.raises(CannotRunError, match="tiny has no GPU memory budget"):
        memory.prove(Job(tmp_path, preset="tiny"))


@pytest.mark.parametrize(
    ("peaks", "planted", "verdict", "why"),
    [
        ((4.0, 2.3), 4.9, "pass", ""),
        ((6.5, 2.3), 4.9, "fail", "must be <= 6 GB"),
        ((4.0, 2.5), 4.9, "fail", "must be <= 2.4"),
        ((4.0, 2.3), 2.3, "cannot-run", "the control did not fail as it must"),
        ((4.0, 2.3), None, "cannot-run", "the card has no room for another 2.4 GB"),
    ],
)
def test_a_budget_is_kept_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peaks: tuple[float, float],
    planted: float | None, verdict: str, why: str,
) -> None:  # fmt: skip
    asked: list[float] = []

    def session(job: Job, name: str, budget: float) -> dict[str, object]:
        asked.append(budget)
        peak = peaks[len(asked) - 1]
        found: dict[str, object] = {"peak_gb": peak, "context_gb": 0.5, "planted_gb": planted}
        return {**found, "out_of_memory": ["once"] * (len(asked) - 1)}

    monkeypatch.setattr("forge.validate.memory.Card.open", object)
    monkeypatch.setattr(memory, "_session", session)
    figures = memory.prove(Job(tmp_path))
    assert asked[0] == 6.0
    assert asked[1] == pytest.approx(0.6 * peaks[0])
    result = Result("memory", tuple(figures))
    assert result.verdict == verdict
    assert why in result.why
    assert parse(json.loads(json.dumps(portable(result.document())))).why == result.why


def test_what_is_planted_is_seen_by_a_watch_that_sees() -> None:
    size, process = 200_000_000, psutil.Process()

    def rss() -> int:
        return int(process.memory_info().rss)

    before = rss()
    assert budget.planted(rss, size, lambda count: b"x" * count) >= before + 0.9 * size
    assert rss() < before + 0.5 * size, "it is given back"
    # A meter that looks at another process, or at another card, sees nothing of it.
    assert budget.planted(lambda: before, size, lambda count: b"x" * count) == before


def test_nothing_is_planted_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    size, caps = 1_000_000, list[float]()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", caps.append)
    monkeypatch.setattr(budget, "planted", lambda _meter, count, _take: count)
    for free, seen in ((size + budget.SPARE_BYTES - 1, None), (size + budget.SPARE_BYTES, size)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 1 << 40))
        assert budget._past_the_cap(lambda: 0, size) == seen
    assert caps == [1.0], "the cap goes only for what is planted"


def test_a_session_that_fails_is_told_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = {"outcome": "failed", "error": "out of memory at micro-batch 1"}
    monkeypatch.setattr(memory, "_RUN", f"import json; print(json.dumps({says!r}))")
    with pytest.raises(RuntimeError, match="under 6 GB the session failed: out of memory"):
        memory._session(Job(tmp_path), "own", 6.0)
    monkeypatch.setattr(memory, "_RUN", 'print(\'{"cannot": "torch finds no CUDA device"}\')')
    with pytest.raises(CannotRunError, match="no CUDA device"):
        memory._session(Job(tmp_path), "own", 6.0)


# --- what they start ------------------------------------------------------------------------------------


@contextmanager
def _parent(grandchild: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program that starts another one bound to it; yields it and the other's process id."""
    code = (
        "import subprocess, sys, time; from forge.validate.child import program; "
        f"p = subprocess.Popen(program({grandchild!r}), stdout=subprocess.PIPE, text=True); "
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_what_a_killed_proof_has_started_dies_with_it_even_when_it_stands_still() -> None:
    with _parent("print('here', flush=True); import time; time.sleep(600)") as (process, pid):
        os.kill(pid, signal.SIGSTOP)
        process.kill()
        process.wait()
        _until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid))


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"


def test_a_child_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"(?s)forge\.validate\.readers ended with 1.*there is no database"
    ):
        child.Child("forge.validate.readers", tmp_path / "none", "01J")


def test_what_lies_in_the_current_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        child.program("import json; print(json.__name__)"), capture_output=True, text=True, check=True
    )
    assert json.loads(f'"{done.stdout.strip()}"') == "json"


def _until(condition: object, seconds: float = 60.0) -> None:
    """Wait for another process; fails when it takes impossibly long."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
