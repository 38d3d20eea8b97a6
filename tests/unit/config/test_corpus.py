"""A corpus that is not there is found missing before anything is made; one that may be there is let pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.config import DataConfig
from forge.config.corpus import corpus_form_problem, corpus_problem, require_corpora
from forge.errors import CorpusError


def test_a_corpus_is_looked_for_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x", "utf-8")
    assert corpus_problem("stdlib") is None
    assert corpus_problem(f"text:{tmp_path}/*.txt") is None
    assert corpus_problem(f"text:{tmp_path}/*.md") == "no file matches"
    assert corpus_problem(f"text:{tmp_path}/**/*.md") is None
    assert "there is no folder" in str(corpus_problem(f"text:{tmp_path}/gone/**/*.md"))
    assert "this is a folder" in str(corpus_problem(f"text:{tmp_path}"))


def test_a_name_may_hold_what_a_pattern_would_mean(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x", "utf-8")
    assert corpus_problem(f"text:{tmp_path}/a[1].txt") is None


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert corpus_problem("text:~/*.txt") == "no file matches"
    (tmp_path / "a.txt").write_text("x", "utf-8")
    assert corpus_problem("text:~/*.txt") is None


@pytest.mark.parametrize(
    "corpus", ["nonsense", "text:", "text: ", "", "Stdlib", "text:\0/*.txt", "text:~nobody-x/*"]
)
def test_what_is_no_corpus_is_refused_with_its_name(corpus: str) -> None:
    assert corpus_problem(corpus) is not None
    with pytest.raises(CorpusError) as raised:
        require_corpora(DataConfig(corpus=corpus))
    assert f"corpus {corpus}: " in str(raised.value)
    assert "nothing was started" in str(raised.value)


def test_the_form_alone_does_not_look(tmp_path: Path) -> None:
    assert corpus_form_problem(f"text:{tmp_path}/*.txt") is None
