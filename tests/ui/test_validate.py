"""The Validate screen: what its keys do, what goes on behind it, and the program that it asks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.home import Home
from forge.validate import Result
from forge_tui.screens.validate import ValidateScreen
from forge_tui.services import prover
from forge_tui.services.prover import Answer, Prover
from forge_tui.services.proving import Proving
from forge_tui.trials import DOCTOR, Stage, Trials
from tests.ui.provers import FACTS, STE, FakeProver
from tests.ui.seed import FIRST, FakeEngine
from tests.ui.stage import FakeClock, playing, press, said, settle, shown, stage

Seeded = Callable[[str], Home]


async def test_one_is_run_and_its_figures_are_shown(seeded: Seeded) -> None:
    fake = FakeProver()
    app = stage(seeded("finished"), prover=fake)
    async with playing(app) as pilot:
        await press(pilot, "T", "j", "enter")
        assert fake.calls == [("ste", True)]
        text = shown(app)
        assert "✓ pass in 14 s" in text
        assert "control: largest gradient," in text
        assert "28 of 28" in text
        assert "1 pass" in text


async def test_all_are_run_one_after_the_other_in_the_form_that_was_chosen(seeded: Seeded) -> None:
    fake = FakeProver()
    app = stage(seeded("finished"), prover=fake)
    async with playing(app) as pilot:
        await press(pilot, "T", "f", "a")
        assert [name for name, _ in fake.calls] == [entry.name for entry in app.proving.trials.entries]
        assert {quick for _, quick in fake.calls} == {False}
        assert "full form" in shown(app)


async def test_a_proof_can_be_cancelled_and_nothing_else_begins(seeded: Seeded) -> None:
    fake = FakeProver(held=("ste",))
    app = stage(seeded("finished"), prover=fake)
    async with playing(app) as pilot:
        await press(pilot, "T", "x")
        assert "x: no proof runs now" in said(app)
        await press(pilot, "a")
        assert " 45% steps of the run, pair 2 of 10" in shown(app)
        await press(pilot, "x")
        assert [name for name, _ in fake.calls] == [DOCTOR, "ste"]
        assert fake.stops == 1
        stages = {entry.name: entry.stage for entry in app.proving.trials.entries}
        assert stages.pop(DOCTOR) is Stage.ENDED
        assert set(stages.values()) == {Stage.CANCELLED}
        # What was cancelled can be run again.
        await press(pilot, "j", "enter")
        assert app.proving.trials.named("ste").result == STE


async def test_what_runs_goes_on_behind_another_screen_and_ends_with_the_program(seeded: Seeded) -> None:
    fake = FakeProver(held=("wal",))
    app = stage(seeded("finished"), prover=fake)
    async with playing(app) as pilot:
        await press(pilot, "T", "j", "j", "enter", "d")
        assert not isinstance(app.screen, ValidateScreen)
        assert app.proving.trials.named("wal").stage is Stage.RUNNING
        fake.released.set()
        await settle(pilot)
        await press(pilot, "T")
        assert "FAIL" in shown(app)
        fake.released.clear()
        await press(pilot, "j", "j", "enter")
        assert fake.stops == 0
    assert fake.stops == 1


async def test_a_live_run_is_warned_about(seeded: Seeded) -> None:
    warning = "a run is live, and proofs cost it time"
    app = stage(seeded("running"), engine=FakeEngine(hosting=FIRST))
    async with playing(app) as pilot:
        await press(pilot, "T")
        assert warning in shown(app)
    app = stage(seeded("finished"))
    async with playing(app) as pilot:
        await press(pilot, "T")
        assert warning not in shown(app)


async def test_one_who_only_looks_runs_nothing(seeded: Seeded) -> None:
    fake = FakeProver()
    app = stage(seeded("running"), prover=fake, readonly=True, engine=None)
    async with playing(app) as pilot:
        await press(pilot, "T", "a")
        assert fake.calls == []
        assert "--readonly" in said(app)


async def test_a_result_with_hostile_text_stays_text(seeded: Seeded) -> None:
    fake = FakeProver(answers={"ste": Result("ste", (), 1.0, "broke\x1b[2J [/b] \u202e", "broke")})
    app = stage(seeded("finished"), prover=fake)
    async with playing(app) as pilot:
        await press(pilot, "T", "j", "enter")
        assert "broke\\x1b[2J [/b] \\u202e" in shown(app)


async def test_asked_twice_it_runs_once() -> None:
    changes: list[Trials] = []
    fake = FakeProver(held=("ste",))
    proving = Proving(fake, FakeClock(), changes.append)
    assert proving.ask(["ste"])
    # Somebody works already: whoever asks now need not begin.
    assert not proving.ask(["ste", "wal"])
    work = asyncio.ensure_future(proving.work())
    await asyncio.sleep(0)
    assert proving.trials.named("ste").doing == "steps of the run, pair 2 of 10"
    fake.released.set()
    await work
    assert [name for name, _ in fake.calls] == ["ste", "wal"]
    assert not proving.trials.busy


# --- the program ----------------------------------------------------------------------------------------


async def ask(
    home: Path, monkeypatch: pytest.MonkeyPatch, code: str, name: str = "ste"
) -> tuple[Answer, list[tuple[float, str]]]:
    """What a prover makes of a program."""
    monkeypatch.setattr(prover, "CLI", code)
    told: list[tuple[float, str]] = []
    answer = await Prover(Home(home)).run(name, True, lambda share, doing: told.append((share, doing)))
    return answer, told


async def test_a_program_is_asked_for_one_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import json; print('ste 40% seed 1', file=sys.stderr); print('a remark', file=sys.stderr); "
        "print(json.dumps({'results': [{'proof': 'ste', 'figures': [], 'seconds': 1, "
        "'reason': ' '.join(sys.argv[1:]), 'failed': ''}]}))"
    )
    answer, told = await ask(tmp_path, monkeypatch, code)
    assert answer == Result("ste", (), 1.0, f"validate ste --quick --json --home {tmp_path}")
    assert told == [(0.4, "seed 1")]


async def test_doctor_answers_with_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [{"what": f.what, "state": f.state, "found": f.found, "remedy": f.remedy} for f in FACTS]
    code = f"import json; print(json.dumps({{'ok': False, 'findings': {findings!r}}})); sys.exit(1)"
    answer, _ = await ask(tmp_path, monkeypatch, code, DOCTOR)
    assert answer == FACTS


async def test_a_program_that_breaks_fails_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, _ = await ask(tmp_path, monkeypatch, "raise SystemExit('no disk left')")
    assert isinstance(answer, Result)
    assert answer.verdict == "fail"
    assert answer.why == "it ended with 1 and no answer: no disk left"


async def test_a_program_that_is_asked_to_end_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time; print('ste 1% here', file=sys.stderr, flush=True); time.sleep(600)"
    monkeypatch.setattr(prover, "CLI", code)
    asked, started = Prover(Home(tmp_path)), asyncio.Event()
    running = asyncio.ensure_future(asked.run("ste", True, lambda *_: started.set()))
    async with asyncio.timeout(60):
        await started.wait()
        await asked.stop(60)
        answer = await running
    assert isinstance(answer, Result)
    assert "it ended with -15" in answer.why
    await asked.stop(60)


async def test_who_leaves_the_screen_gives_a_program_time_to_put_away_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = str(tmp_path / "away")
    code = (
        f"import signal, time; end = lambda *_: (open({away!r}, 'w').close(), sys.exit(0)); "
        "signal.signal(signal.SIGTERM, end); "
        "print('ste 1% here', file=sys.stderr, flush=True); time.sleep(600)"
    )
    monkeypatch.setattr(prover, "CLI", code)
    asked, started = Prover(Home(tmp_path)), asyncio.Event()
    running = asyncio.ensure_future(asked.run("ste", True, lambda *_: started.set()))
    async with asyncio.timeout(60):
        await started.wait()
        # As Textual does with its workers, before the application is unmounted.
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asked.stop(60)
    assert (tmp_path / "away").exists()


async def test_a_program_that_does_not_listen_is_ended_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('ste 1% here', file=sys.stderr, flush=True); time.sleep(600)"
    )
    monkeypatch.setattr(prover, "CLI", code)
    asked, started = Prover(Home(tmp_path)), asyncio.Event()
    running = asyncio.ensure_future(asked.run("ste", True, lambda *_: started.set()))
    async with asyncio.timeout(60):
        await started.wait()
        await asked.stop(0.1)
        answer = await running
    assert isinstance(answer, Result)
    assert "it ended with -9" in answer.why


async def test_the_screen_does_not_load_what_a_proof_needs(tmp_path: Path) -> None:
    code = "import sys, forge_tui.screens.validate, forge_tui.app; print('torch' in sys.modules)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    out, _ = await process.communicate()
    assert out.strip() == b"False"
