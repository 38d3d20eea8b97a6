"""The benchmarks themselves: their arithmetic, their verdicts, and that what they measure with works.

No time is asserted: what is measured here is a text that a program writes, or a number that a test chose.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import __main__ as program
from benchmarks import attach, grokfast, points, registry
from benchmarks.attach import dashboard
from benchmarks.children import Child
from benchmarks.live import PHASE, make_session
from benchmarks.readers import Readers
from benchmarks.table import Row, figure, print_table, row
from forge.home import Home
from forge.registry import Registry, State, fetch, open_reader, queries
from forge.validate import noise
from forge.validate.pairs import alternating, compare, interval, summarise
from forge.validate.readers import total
from forge.validate.terminal import COLUMNS, ROWS, Terminal

# --- the arithmetic -------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_over_pairs() -> None:
    # The machine was slow in the second pair: both sides doubled, and the ratio stays.
    found = summarise([1.0, 2.0, 1.2], [2.0, 4.0, 2.0])
    assert (found.ours, found.peer) == (1.2, 2.0)
    assert found.ratio == 0.5
    assert found.low <= found.ratio <= found.high


def test_an_interval_narrows_around_equal_values_and_is_repeatable() -> None:
    assert interval([3.0] * 5) == (3.0, 3.0)
    spread = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert interval(spread) == interval(spread)
    low, high = interval(spread)
    assert 1.0 <= low < 3.0 < high <= 5.0


def test_sides_take_turns_and_nobody_is_always_first() -> None:
    calls: list[str] = []
    alternating([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    assert "".join(calls) == "abbaab"


def test_comparing_warms_up_and_measures_pairs() -> None:
    calls: list[str] = []

    def clock(run: Callable[[], object]) -> float:
        run()
        return 2.0 if calls[-1] == "ours" else 4.0

    found = compare(lambda: calls.append("ours"), lambda: calls.append("peer"), 3, warmup=2, clock=clock)
    assert (found.ours, found.peer, found.ratio) == (2.0, 4.0, 0.5)
    assert calls.count("ours") == calls.count("peer") == 5


@pytest.mark.parametrize(
    ("line", "ok"),
    [
        (row("a ratio", summarise([1.0], [1.0])), None),
        (row("a ratio", summarise([1.02], [1.0]), budget=1.02), True),
        (row("a ratio", summarise([1.03], [1.0]), budget=1.02), False),
        # The figure is far above the budget of the ratio, and only the ratio counts.
        (row("a ratio", summarise([50.0], [100.0]), budget=1.0), True),
        (figure("a figure", [0.4, 0.5, 0.9], "s", budget=0.5), True),
        (figure("a figure", [0.6], "s"), None),
        (figure("a figure", [90e6], "MB", 1e-6, budget=80), False),
        (figure("not a number", [math.nan], "s", budget=1.0), False),
    ],
)
def test_a_budget_is_kept_or_broken(line: Row, ok: bool | None) -> None:
    assert line.ok is ok


def test_a_table_shows_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("title", [row("pair", summarise([0.002], [0.001]), budget=1.5), figure("alone", [7.0], "kB")])
    shown = capsys.readouterr().out
    pair, alone = (line for line in shown.splitlines() if "pair" in line or "alone" in line)
    assert [cell.strip() for cell in pair.strip("│").split("│")] == [
        "pair", "2", "1", "ms", "2.000", "2.000–2.000", "<= 1.5", "NO",
    ]  # fmt: skip
    assert [cell.strip() for cell in alone.strip("│").split("│")] == ["alone", "7", "", "kB", "", "", "", ""]


# --- the program ----------------------------------------------------------------------------------------

GOOD = figure("fast enough", [1.0], "s", budget=2.0)
BAD = figure("far too slow", [3.0], "s", budget=2.0)


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts benchmarks in the place of the real ones: rows, or the exception that one ends with."""

    def install(**found: Sequence[Row] | Exception) -> None:
        for name, result in found.items():
            module = ModuleType(f"benchmarks.{name}")

            def run(quick: bool, result: Sequence[Row] | Exception = result) -> Sequence[Row]:
                if isinstance(result, Exception):
                    raise result
                return result

            module.run = run  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(program, "NAMES", tuple(found))

    return install


def test_a_broken_budget_is_named_and_fails_only_the_check(
    benchmarks: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks(one=[GOOD, BAD])
    assert program.main([]) == 0
    assert program.main(["--check"]) == 1
    told = capsys.readouterr()
    assert "one: far too slow is 3, its budget 2" in told.err
    assert "fast enough" not in told.err
    assert "usable cores" in told.out
    assert "pysqlite3" in told.out or "sqlite3" in told.out


def test_kept_budgets_pass_the_check(benchmarks: Callable[..., None]) -> None:
    benchmarks(one=[GOOD])
    assert program.main(["--check"]) == 0


def test_a_failing_benchmark_does_not_stop_the_others(
    benchmarks: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks(first=OSError("no space"), second=[GOOD])
    assert program.main(["--json", str(tmp_path / "found.json")]) == 1
    assert "first failed: OSError: no space" in capsys.readouterr().err
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert found["benchmarks"]["first"]["error"] == "OSError: no space"
    assert (
        found["benchmarks"]["second"]["rows"][0] | {"name": "fast enough", "ours": 1.0, "ok": True}
        == (found["benchmarks"]["second"]["rows"][0])
    )
    assert found["machine"]["python"]


def test_only_what_was_named_is_run(benchmarks: Callable[..., None]) -> None:
    benchmarks(one=[GOOD], two=OSError("not asked for"))
    assert program.main(["one"]) == 0


def test_an_unknown_name_is_refused(
    benchmarks: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks(one=[GOOD])
    with pytest.raises(SystemExit) as exit_:
        program.main(["three"])
    assert exit_.value.code == 2
    assert "no benchmark three; there are one" in capsys.readouterr().err


def test_every_benchmark_has_a_module() -> None:
    folder = Path(program.__file__).parent
    for name in program.NAMES:
        assert "def run(quick: bool) -> list[Row]:" in (folder / f"{name}.py").read_text("utf-8")


# --- what they measure with -----------------------------------------------------------------------------

ASKS = """
import os, sys, tty
tty.setraw(0)
size = os.get_terminal_size()
print("size", size.columns, size.lines, end=" ", flush=True)
os.write(1, b"\\x1b[6n")
answer = b""
while not answer.endswith(b"R"):
    answer += os.read(0, 1)
print("answered", end=" ", flush=True)
key = os.read(0, 1).decode()
print("key", key, end=" ", flush=True)
os.read(0, 1)
"""


def test_a_terminal_has_a_size_answers_and_counts() -> None:
    with Terminal([sys.executable, "-c", ASKS]) as terminal:
        assert terminal.wait_for(lambda output: b"answered " in output) > 0
        before = time.perf_counter()
        terminal.press("x")
        terminal.wait_for(lambda output: b"key x " in output)
        assert f"size {COLUMNS} {ROWS}".encode() in terminal.output
        assert terminal.bytes_since(before) == len("key x ")
        assert terminal.bytes_since(0) == len(terminal.output)
        assert terminal.resident_bytes() > 1e6
        assert terminal.maps("libc.so") in (True, None)
        assert not terminal.maps("libtorch")
    assert terminal.process.poll() is not None


def test_a_program_that_ends_too_early_is_an_error_with_its_words() -> None:
    with (
        Terminal([sys.executable, "-c", "print('cannot do that')"]) as terminal,
        pytest.raises(TimeoutError, match=r"ended.*cannot do that"),
    ):
        terminal.wait_for(lambda output: b"never" in output)


def test_a_stopped_program_goes_on_without_hearing_of_it() -> None:
    listen = "import signal, sys; signal.signal(signal.SIGCONT, lambda *_: print('heard')); print('ready')"
    with Terminal([sys.executable, "-c", f"{listen}; sys.stdin.readline(); print('done')"]) as terminal:
        terminal.wait_for(lambda output: b"ready" in output)
        terminal.process.send_signal(signal.SIGSTOP)
        terminal.process.send_signal(signal.SIGCONT)
        terminal.press("\n")
        terminal.wait_for(lambda output: b"done" in output)
        assert b"heard" not in terminal.output


def test_a_dashboard_is_painted_with_its_curve_and_its_keys() -> None:
    shown = dashboard("otter")
    curve = "⣀".encode() * 20
    assert shown(b"otter" + curve + b"quit")
    assert not shown(b"otter" + b"quit")
    assert not shown(curve + b"quit")
    assert not shown(b"otter" + curve)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home to be filled."""
    return Home(tmp_path / "home")


def test_a_made_session_has_its_points(home: Home) -> None:
    session_id = make_session(home, "long", 250)
    with Registry.open(home) as registry:
        session = registry.one(queries.session(session_id))
    assert session is not None
    assert (session.name, session.state, session.phase) == ("long", State.STOPPED, PHASE)
    connection = open_reader(home.session(session_id).metrics)
    last = {(series.phase, series.name): series.last_step for series in fetch(connection, queries.series())}
    connection.close()
    assert last[PHASE, "loss"] == last[PHASE, "lr"] == 250
    assert ("system", "rss_bytes") in last


def test_readers_poll_only_when_told_to_and_count_their_errors(home: Home) -> None:
    session_id = make_session(home, "watched", 50)
    with Readers(home, session_id, 1) as readers:
        assert total(readers.reports()).polls == 0
        with readers.working(1):
            pass
        reports = readers.reports()
        # At rest nobody polls, so a second look finds the same.
        assert total(readers.reports()) == total(reports)
        assert total(reports).polls >= 1
        assert total(reports).errors == []
        connection_is_gone(home)
        with readers.working(1):
            pass
        assert len(total(readers.reports()).errors) >= 1


def connection_is_gone(home: Home) -> None:
    """Take the tables away under a reader's feet."""
    with Registry.open(home) as registry:
        registry.write(lambda c: c.execute("ALTER TABLE session RENAME TO gone"))


def test_a_child_that_dies_is_an_error_with_its_last_words() -> None:
    with pytest.raises(RuntimeError, match="cannot create the Forge home /dev/null/nowhere"):
        Child("benchmarks.live", "forge", "/dev/null/nowhere")


def test_points_through_the_engine_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "BURST", 300)
    assert points._through_the_engine(tmp_path / "engine.db") > 0
    assert points._through_the_writer(tmp_path / "writer.db") > 0
    with pytest.raises(RuntimeError, match="3000 of 1 points"):
        points._counted(tmp_path / "writer.db", 1)


def test_a_disturbed_measurement_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Others' processor seconds before and after each measurement; the clock moves 1 s, on 2 processors.
    busy, clock = iter([0.0, 1.0, 0.0, 0.5, 0.0, 0.0]), iter(range(100))
    monkeypatch.setattr(noise, "_busy", lambda: next(busy))
    monkeypatch.setattr(noise, "_own", lambda: 0.0)
    monkeypatch.setattr("psutil.cpu_count", lambda: 2)
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    values: Iterator[float] = iter([10.0, 20.0, 30.0])
    found = noise.Noise()
    assert found.least(lambda: next(values)) == 30.0
    assert (found.measured, found.repeated, found.disturbed) == (1, 2, 0)


def test_what_an_ended_child_took_is_not_others_work() -> None:
    before = noise._own()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert noise._own() - before >= 0.01


def test_the_least_disturbed_counts_where_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter([0.0, 9.0, 0.0, 5.0, 0.0, 7.0])
    monkeypatch.setattr(noise, "_busy", lambda: next(busy))
    monkeypatch.setattr(noise, "_own", lambda: 0.0)
    monkeypatch.setattr("time.perf_counter", iter(map(float, range(100))).__next__)
    values = iter([10.0, 20.0, 30.0])
    found = noise.Noise()
    assert found.least(lambda: next(values)) == 20.0
    assert found.disturbed == 1


# --- the shortest of the real ones ----------------------------------------------------------------------


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where only the development tools are installed."""
    for name in ("mlflow", "mlflow.entities", "mlflow.store.tracking.sqlalchemy_store", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(grokfast, "find_spec", lambda name: None)
    monkeypatch.setattr(attach, "find_spec", lambda name: None)


@pytest.mark.usefixtures("no_peers")
def test_points_without_peers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(points, "BURST", 300)
    found = points.against_peers(1)
    assert [line.name for line in found] == [
        "ctx.log to committed / 250,000 points/s", *["ctx.log, a point", "MetricsWriter, a point"] * 2,
    ]  # fmt: skip
    assert [line.peer is None for line in found] == [False, True, True, True, True]
    assert "registry: trackio is not installed" in capsys.readouterr().err


@pytest.mark.usefixtures("no_peers")
def test_the_filter_without_its_peer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        grokfast, "compare", lambda ours, peer, pairs, clock: compare(ours, peer, 1, 0, clock)
    )
    (found,) = grokfast.run(quick=True)
    assert found.name == "filter and AdamW / a per-parameter loop, tiny, cpu"
    assert found.ratio is not None
    assert "grokfast: grokfast-pytorch is not installed" in capsys.readouterr().err


def test_commits_beside_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "READERS", (0, 1))
    found = registry.commits_beside_readers(rounds=1, seconds=0.2)
    assert [line.name for line in found] == [
        f"{what}, {n}: WAL / DELETE"
        for what in ("a registry commit, p50", "a registry commit, p99", "a metric point")
        for n in ("0 readers", "1 reader")
    ]
    assert all(line.ours > 0 and line.ratio is not None and line.ratio > 0 for line in found)


@pytest.mark.usefixtures("no_peers")
def test_attaching_beside_a_live_run(tmp_path: Path) -> None:
    with ExitStack() as stack:
        programs = attach._programs(tmp_path, stack)
        found = attach._beside_a_live_run(programs, 0.5)
    assert {line.name.partition(",")[0] for line in found} >= {
        "resident after 0.5 s", "bytes to the terminal", "resident / an empty Textual screen",
    }  # fmt: skip
    for line in found:
        if "torch" in line.name:
            assert line.ok


def test_a_long_session_opens_to_its_chart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "TRIES", 1)
    (found,) = attach._million(tmp_path, 2_000, 1)
    assert found.name == "2,000 points to the drawn chart, beyond an empty start"
    assert found.budget == 0.3


def test_the_command_line_answers_without_torch() -> None:
    code = "import sys; from benchmarks import __main__; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(program.__file__).parents[1], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "False\n"), result.stderr
