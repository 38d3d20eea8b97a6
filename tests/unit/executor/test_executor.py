"""One contract for all executors: the order of the items, an honest end for every failure."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forge.errors import ConfigError, MergeError, TrainingError
from forge.executor import Executor, Kind, open_executor
from tests.unit.executor.work import make, make_badly, wait_for

ROOT = Path(__file__).resolve().parents[3]
RAY = pytest.param("ray", marks=pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no ray"))
ALL = ["inprocess", "processes", RAY]
APART = ["processes", RAY]
Open = Callable[..., Executor[str, str]]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens executors over the test's folder, and closes them."""
    every: list[Executor[str, str]] = []

    def open_(kind: Kind, workers: int = 2, made: Callable[[Path], Callable[[str], str]] = make) -> Executor:  # type: ignore[type-arg]
        executor: Executor[str, str] = open_executor(kind, made, tmp_path, workers)
        every.append(executor)
        return executor

    yield open_
    for executor in every:
        executor.close()


def told(arrived: list[tuple[int, str]]) -> Callable[[int, str], None]:
    return lambda place, result: arrived.append((place, result))


@pytest.mark.parametrize("kind", ALL)
def test_every_item_has_its_result_in_order_and_is_told_of(kind: Kind, opened: Open, tmp_path: Path) -> None:
    executor, arrived = opened(kind), list[tuple[int, str]]()
    items = [f"echo {number}" for number in range(7)]
    assert list(executor.run(items, told(arrived))) == [item.upper() for item in items]
    assert sorted(arrived) == [(place, item.upper()) for place, item in enumerate(items)]
    # The next batch finds the workers made.
    assert list(executor.run(["echo again"], told(arrived))) == ["ECHO AGAIN"]
    assert list(executor.run([], told(arrived))) == []
    assert len(list(tmp_path.glob("made-*"))) == {"inprocess": 1}.get(kind, 2)


@pytest.mark.parametrize("kind", APART)
def test_the_order_is_that_of_the_items_whatever_is_done_first(kind: Kind, opened: Open) -> None:
    arrived = list[tuple[int, str]]()
    results = opened(kind).run(["wait done", "echo a", "touch done"], told(arrived))
    assert list(results) == ["WAIT DONE", "ECHO A", "TOUCH DONE"]
    # What is there is told at once, so it is not lost with what is still waited for.
    assert next(place for place, _ in arrived) == 1


@pytest.mark.parametrize("kind", APART)
def test_the_work_is_done_elsewhere(kind: Kind, opened: Open) -> None:
    pids = set(opened(kind).run(["pid", "pid", "pid"], lambda *_: None))
    assert str(os.getpid()) not in pids


@pytest.mark.parametrize("kind", ALL)
def test_what_the_work_raises_comes_in_its_turn(kind: Kind, opened: Open) -> None:
    executor = opened(kind)
    results = executor.run(["echo a", "fail b", "echo c"], lambda *_: None)
    assert next(results) == "ECHO A"
    with pytest.raises(MergeError, match=r"^b cannot be merged$"):
        next(results)


@pytest.mark.parametrize("kind", ALL)
def test_a_setup_that_cannot_be_made_says_why(kind: Kind, opened: Open, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=f"{tmp_path} holds no models"):
        list(opened(kind, 1, make_badly).run(["echo a"], lambda *_: None))


@pytest.mark.parametrize("kind", APART)
def test_a_worker_that_dies_is_replaced_once(kind: Kind, opened: Open) -> None:
    executor = opened(kind)
    assert list(executor.run(["echo a", "die mark", "echo b"], lambda *_: None)) == [
        "ECHO A", "DIE MARK", "ECHO B",
    ]  # fmt: skip
    with pytest.raises(TrainingError, match="candidate 2 of this batch, and so did the one that tried"):
        list(executor.run(["echo a", "always"], lambda *_: None))


def test_a_worker_that_died_with_nothing_to_do_costs_nothing(opened: Open) -> None:
    executor = opened("processes", 1)
    (pid,) = executor.run(["pid"], lambda *_: None)
    os.kill(int(pid), signal.SIGKILL)
    # Even where its end is seen only with the first item: that one has another try.
    first, other = executor.run(["echo a", "pid"], lambda *_: None)
    assert (first, other == pid) == ("ECHO A", False)


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"forge-tui\[ray\]"):
        open_executor("ray", make, tmp_path)


def test_workers_end_with_a_coordinator_that_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from forge.executor import open_executor
        from tests.unit.executor.work import make

        if __name__ == "__main__":
            folder = Path({str(tmp_path)!r})
            executor = open_executor("processes", make, folder, 1)
            (pid,) = executor.run(["pid"], lambda *_: None)
            (folder / "pid").write_text(pid)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    (tmp_path / "coordinator.py").write_text(script)
    subprocess.run(
        [sys.executable, tmp_path / "coordinator.py"], env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False, timeout=60, capture_output=True,
    )  # fmt: skip
    worker = Path("/proc") / (tmp_path / "pid").read_text()
    gone = tmp_path / "gone"
    for _ in range(6000):
        if not worker.exists() or "Z" in (worker / "stat").read_text().split()[2]:
            gone.touch()
            break
        subprocess.run([sys.executable, "-c", ""], check=True)
    wait_for(gone)
