"""A proof leaves nothing behind, never touches the home, and whatever becomes of it is a result."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from forge.home import Home
from forge.validate import Figure, job
from forge.validate.job import CannotRunError, Job, run
from forge.validate.proofs import PROOFS, Proof


@dataclass(frozen=True)
class Module:
    """A proof that a test wrote."""

    body: Callable[[Job], Sequence[Figure]]

    def prove(self, job: Job) -> Sequence[Figure]:
        """Do as the test says."""
        return self.body(job)


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Job], Sequence[Figure]]], Proof]:
    """Makes a proof out of a function."""

    def make(body: Callable[[Job], Sequence[Figure]]) -> Proof:
        monkeypatch.setattr(Proof, "module", lambda _: Module(body))
        return PROOFS[0]

    return make


Make = Callable[[Callable[[Job], Sequence[Figure]]], Proof]


def test_it_writes_beside_the_home_and_leaves_nothing(tmp_path: Path, proof: Make) -> None:
    home = Home(tmp_path / "place" / "home")
    home.root.parent.mkdir()
    seen: list[Path] = []

    def body(job: Job) -> list[Figure]:
        (job.folder / "file").write_text("x")
        seen.append(job.folder)
        return [Figure("found", 1, "", "==", 1)]

    result = run(proof(body), home, quick=True)
    assert result.verdict == "pass"
    assert result.proof == PROOFS[0].name
    assert seen[0].parent == home.root.parent
    assert seen[0].name.startswith(job.PREFIX)
    assert list(home.root.parent.iterdir()) == []


def test_a_home_where_nothing_can_be_written_takes_the_common_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge.validate.job.os.access", lambda *_: False)
    assert job.place(Home(tmp_path / "home")) == Path(os.environ.get("TMPDIR", "/tmp"))


def test_a_network_file_system_proves_nothing(
    tmp_path: Path, proof: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "filesystem_type", lambda _: "nfs4")
    result = run(proof(lambda job: []), Home(tmp_path / "home"), quick=True)
    assert result.verdict == "cannot-run"
    assert "nfs4" in result.why


def test_what_breaks_and_what_cannot_run_are_told_apart(tmp_path: Path, proof: Make) -> None:
    def cannot(job: Job) -> list[Figure]:
        raise CannotRunError("there is no GPU here.")

    def breaks(job: Job) -> list[Figure]:
        (job.folder / "left").mkdir()
        raise RuntimeError("the run ended with 1")

    home = Home(tmp_path / "home")
    result = run(proof(cannot), home, quick=False)
    assert (result.verdict, result.why) == ("cannot-run", "there is no GPU here.")
    result = run(proof(breaks), home, quick=False)
    assert (result.verdict, result.why) == ("fail", "it broke: RuntimeError: the run ended with 1")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_no_result_and_leaves_nothing(tmp_path: Path, proof: Make) -> None:
    def interrupted(job: Job) -> list[Figure]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(proof(interrupted), Home(tmp_path / "home"), quick=False)
    assert list(tmp_path.iterdir()) == []
