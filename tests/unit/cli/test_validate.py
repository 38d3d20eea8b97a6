"""`forge validate`: what it prints, how it ends, and that it can be ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from forge.cli import validate as command
from forge.cli.exits import UNPROVEN
from forge.home import Home
from forge.registry import State
from forge.validate import PROOFS, Figure
from forge.validate.job import CannotRunError, Job
from forge.validate.proofs import Proof
from tests.unit.cli.conftest import Forge, add, until

Prove = Callable[[Job], Sequence[Figure]]

KEPT = Figure("errors", 0, "in 10 looks", "==", 0)
MISSED = Figure("updates\x1b[2J lost", 3, "of 602", "==", 0)
CONTROL = Figure("errors of the broken one", 7, "", ">=", 1, control=True)


def passes(job: Job) -> list[Figure]:
    job.tell(0.5, "half of it")
    return [KEPT, CONTROL]


def fails(job: Job) -> list[Figure]:
    return [MISSED, CONTROL]


def cannot(job: Job) -> list[Figure]:
    raise CannotRunError("there is no GPU here.")


class _Module:
    def __init__(self, prove: Prove) -> None:
        self.prove = prove


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts proofs of a test's own in the place of the real ones."""

    def install(**bodies: Prove) -> None:
        made = tuple(Proof(name, f"{name} holds", "it shows", 60, 10) for name in bodies)
        monkeypatch.setattr("forge.validate.proofs.PROOFS", made)
        monkeypatch.setattr(command, "PROOFS", made)
        monkeypatch.setattr(Proof, "module", lambda self: _Module(bodies[self.name]))

    return install


def test_figure_threshold_and_verdict_are_printed(forge: Forge, proofs: Callable[..., None]) -> None:
    proofs(good=passes, bad=fails, other=cannot)
    result = forge("validate")
    assert result.code == 1
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "good: good holds" in lines
    assert "errors 0 in 10 looks = 0 ok" in lines
    assert "control errors of the broken one 7 >= 1 ok" in lines
    assert "updates\\x1b[2J lost 3 of 602 = 0 missed" in lines
    assert "cannot run in 0 s: there is no GPU here." in lines
    assert lines[-1] == "1 pass, 1 FAIL, 1 cannot run"
    assert "\x1b" not in result.out
    assert "good 50% half of it" in result.err


@pytest.mark.parametrize(
    ("bodies", "code"),
    [
        ({"good": passes}, 0),
        ({"good": passes, "bad": fails}, 1),
        ({"good": passes, "other": cannot}, UNPROVEN),
        ({"bad": fails, "other": cannot}, 1),
    ],
)
def test_the_exit_code_tells(
    forge: Forge, proofs: Callable[..., None], bodies: dict[str, Prove], code: int
) -> None:
    proofs(**bodies)
    assert forge("validate", "--quiet").code == code
    answer = forge("validate", "--json")
    assert answer.code == code
    assert answer.json["ok"] is (code == 0)
    assert [each["proof"] for each in answer.json["results"]] == list(bodies)


def test_json_has_every_figure(forge: Forge, proofs: Callable[..., None]) -> None:
    proofs(bad=fails)
    answer = forge("validate", "bad", "--quick", "--json").json
    (result,) = answer["results"]
    assert answer["quick"] is True
    assert (result["verdict"], result["why"]) == ("fail", "updates\x1b[2J lost is 3 of 602, and must be = 0")
    lost, control = result["figures"]
    assert (lost["value"], lost["threshold"], lost["kept"], lost["control"]) == (3, "= 0", False, False)
    assert control["control"] is True


def test_a_live_run_is_warned_about(forge: Forge, home: Home, proofs: Callable[..., None]) -> None:
    proofs(good=passes)
    add(home, "asleep")
    assert "live" not in forge("validate").err
    add(home, "awake", State.RUNNING)
    assert "awake is live here: the proofs cost it processor time" in forge("validate").err
    add(home, "awake-too", State.PAUSED)
    assert "several runs are live here" in forge("validate").err


def test_a_registry_that_cannot_be_read_stops_no_proof(
    forge: Forge, home: Home, proofs: Callable[..., None]
) -> None:
    proofs(good=passes)
    home.registry.write_bytes(b"not a database" * 100)
    assert forge("validate").code == 0


def test_only_what_was_named_is_run_and_it_is_told_how(forge: Forge, proofs: Callable[..., None]) -> None:
    jobs: list[Job] = []

    def note(job: Job) -> list[Figure]:
        jobs.append(job)
        return [KEPT]

    proofs(one=note, two=fails)
    assert forge("validate", "one", "one", "--quick", "--preset", "mine.yaml").code == 0
    assert [(job.quick, job.preset) for job in jobs] == [(True, "mine.yaml")]
    assert "FAIL" not in forge("validate", "one").out


def test_an_unknown_name_is_refused_with_the_known_ones(forge: Forge) -> None:
    result = forge("validate", "nonsense")
    assert result.code == 4
    assert 'there is no proof "nonsense"; there are ste, wal' in result.err


def test_the_list_says_what_is_claimed_and_how_long_it_takes(forge: Forge) -> None:
    out = forge("validate", "--list").out
    for proof in PROOFS:
        assert proof.claim in out
        assert proof.control in out
    assert "1 m 00 s, 15 s with --quick" in out
    assert [each["proof"] for each in forge("validate", "--list", "--json").json] == [p.name for p in PROOFS]


SLEEPS = """
import sys, time
from forge.validate import child, job, proofs
import subprocess
class Module:
    def prove(self, job):
        (job.folder / "something").write_text("x")
        inner = subprocess.Popen(child.program("import time; print('on', flush=True); time.sleep(600)"))
        try:
            print("running", job.folder, inner.pid, file=sys.stderr, flush=True)
            time.sleep(600)
        finally:
            inner.kill()
            inner.wait()
proofs.Proof.module = lambda self: Module()
from forge.cli import main
main()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_it_can_be_ended_and_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    home = Home(tmp_path / "home")
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPS, "validate", "ste", "--home", str(home.root)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        word, folder, pid = process.stderr.readline().split()
        assert word == "running"
        assert Path(folder).parent == tmp_path
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    assert list(tmp_path.iterdir()) == []
    until(lambda: not _runs(int(pid)), "the end of what it started")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_command_line_knows_its_proofs_without_torch(tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "sys.argv = ['forge', 'validate', '--list']\n"
        "from forge.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr.strip() == "False"
    assert "ste" in done.stdout
