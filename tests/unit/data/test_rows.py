"""Rows as documents: what is read of JSON lines, Parquet, data sets and tasks, and what each refusal says."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forge.data import questions, read_corpus, rows
from forge.errors import CorpusError

CI = os.environ.get("CI") == "true"


def needs(module: str) -> pytest.MarkDecorator:
    """Skip where an extra is missing; never on CI what `dev` brings."""
    missing = importlib.util.find_spec(module) is None
    required = CI and module != "reasoning_gym"
    return pytest.mark.skipif(missing and not required, reason=f"{module} is not installed")


def texts(spec: str) -> list[str]:
    """The documents of a corpus, in the order of their names."""
    found = sorted(read_corpus(spec).documents, key=lambda document: document.name)
    return [document.data.decode() for document in found]


def refusal(spec: str) -> str:
    """What a bad corpus is told; the corpus is always named."""
    with pytest.raises(CorpusError) as caught:
        read_corpus(spec)
    assert spec in str(caught.value)
    return str(caught.value)


def write_rows(path: Path, *values: object) -> Path:
    """JSON lines, each row as it is or, if it is bytes, raw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join((v if isinstance(v, bytes) else json.dumps(v).encode()) + b"\n" for v in values)
    )
    return path


def test_each_line_is_a_document(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"text": "one"}, b"", {"text": "zwei ü", "other": 2})
    assert texts(f"jsonl:{path}") == ["one", "zwei ü"]
    assert [d.name for d in read_corpus(f"jsonl:{tmp_path}/*.jsonl").documents if d.data == b"one"] == [
        "a.jsonl:1"
    ]
    write_rows(tmp_path / "b.jsonl", {"body": "three"})
    assert texts(f"jsonl:{tmp_path}/**/*.jsonl#body") == ["three"]


def test_a_hash_in_a_files_name_is_no_field(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "c#.jsonl#x", {"text": "one", "body": "two"})
    assert texts(f"jsonl:{path}") == ["one"]
    assert texts(f"jsonl:{path}#body") == ["two"]


def test_bad_rows_are_counted_and_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 2**20)
    huge = json.dumps({"text": "x" * 2**21}).encode()
    deep = b"[" * 100_000 + b"]" * 100_000
    path = write_rows(
        tmp_path / "a.jsonl", {"text": "good"}, b'{"text": "cut', huge, deep, {"text": 3}, ["text"],
        {"text": " "}, {"text": "a\0b"}, b'{"text": "\\ud800"}', b'{"text": "\xff"}', {"text": "last"},
    )  # fmt: skip
    os.mkfifo(tmp_path / "fifo")
    corpus = read_corpus(f"jsonl:{tmp_path}/*")
    assert {d.data for d in corpus.documents} == {b"good", b"last"}
    assert {d.name for d in corpus.documents} == {f"{path.name}:1", f"{path.name}:11"}
    assert corpus.skipped == {
        "binary": 1,
        "empty": 1,
        f"larger than {rows.MAX_ROW_BYTES // 2**20} MiB": 1,
        "not UTF-8": 1,
        "not a line of JSON": 3,
        "not a regular file": 1,
        "without text in text": 2,
    }


def test_a_line_is_never_held_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 64)
    path = write_rows(tmp_path / "a.jsonl", b"x" * 10_000, {"text": "good"}, b"y" * 640)
    assert texts(f"jsonl:{path}") == ["good"]


def test_no_good_row_says_where_to_look(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", b"{", {"body": "x"})
    message = refusal(f"jsonl:{path}")
    assert "1 not a line of JSON, 1 without text in text" in message
    assert "a.jsonl:1" in message
    assert "no file was found" in refusal(f"jsonl:{tmp_path}/*.none")
    assert f"jsonl:{tmp_path}/**/*.jsonl" in refusal(f"jsonl:{tmp_path}")
    assert "no files are named" in refusal("jsonl:")


@pytest.mark.parametrize(
    ("spec", "module", "extra"),
    [
        ("parquet:/tmp/x", "pyarrow.parquet", "forge-tui[data]"),
        ("hf:some/name", "datasets", "forge-tui[data]"),
        ("gym:gcd", "reasoning_gym.factory", "forge-tui[gym]"),
    ],
)
def test_a_missing_extra_is_named(
    spec: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert extra in refusal(spec)


@needs("pyarrow")
def test_parquet_reads_one_column(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    table = pyarrow.table({"text": ["one", None, "two", ""], "n": [1, 2, 3, 4], "body": ["a", "b", "c", "d"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    spec = f"parquet:{tmp_path}/a.parquet"
    assert texts(spec) == ["one", "two"]
    assert read_corpus(spec).skipped == {"empty": 1, "without text in text": 1}
    assert texts(f"{spec}#body") == ["a", "b", "c", "d"]
    message = refusal(f"{spec}#n")
    assert "it has text, body" in message
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really PAR1")
    assert "not Parquet, or damaged" in refusal(f"parquet:{tmp_path}/b.parquet")
    assert texts(f"parquet:{tmp_path}/*") == ["one", "two"]


@needs("pyarrow")
def test_parquet_that_unpacks_to_too_much_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"text": [f"{i}" * 50 for i in range(100)]}), tmp_path / "a.parquet")
    monkeypatch.setattr(rows, "MAX_COLUMN_BYTES", 1000)
    assert "too large to unpack" in refusal(f"parquet:{tmp_path}/a.parquet")


@needs("datasets")
def test_a_folder_is_a_data_set(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", {"text": "one", "body": "eins"}, {"text": "two", "body": "zwei"})
    write_rows(tmp_path / "test.jsonl", {"text": "held out", "body": "x"})
    assert texts(f"hf:{tmp_path}") == ["one", "two"]
    assert texts(f"hf:{tmp_path}#body") == ["eins", "zwei"]
    assert "there are text, body" in refusal(f"hf:{tmp_path}#none")
    assert len(read_corpus(f"hf:{tmp_path}", max_bytes=4).documents) == 1
    assert "there is no folder" in refusal(f"hf:{tmp_path}/gone")


@needs("datasets")
def test_a_data_set_that_is_more_than_data_is_refused(tmp_path: Path) -> None:
    outside = write_rows(tmp_path / "outside" / "secret.jsonl", {"text": "secret"})
    card = tmp_path / "card" / "README.md"
    card.parent.mkdir()
    card.write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {outside}\n---\n", "utf-8")
    assert "outside the folder" in refusal(f"hf:{card.parent}")
    script, ran = tmp_path / "script" / "script.py", tmp_path / "ran"
    script.parent.mkdir()
    script.write_text(f"open({str(ran)!r}, 'w')\n", "utf-8")
    assert "cannot be read as a data set" in refusal(f"hf:{script.parent}")
    assert not ran.exists()
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "train.pkl").write_bytes(b"cos\nsystem\n")
    assert "cannot be read as a data set" in refusal(f"hf:{tmp_path}/pickle")
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "train.wav").write_bytes(b"RIFF")
    assert "it reads JSON" in refusal(f"hf:{tmp_path}/sound")


@needs("datasets")
def test_offline_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: object) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    message = refusal("hf:some/name")
    assert "Couldn't reach the Hub" in message
    assert "offline, name a folder" in message


class Task:
    """A task of `questions` different questions; item i of a seed is a function of both."""

    def __init__(self, size: int, seed: int, questions: int) -> None:
        self.size, self.seed, self.questions = size, seed, questions

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = random.Random(self.seed + index).randrange(self.questions)
        return {"question": f"What  is {number}?", "answer": None if number == 3 else str(number)}


def install_task(monkeypatch: pytest.MonkeyPatch, questions: int) -> None:
    """Stand in for reasoning-gym with one task, `count`."""
    factory = SimpleNamespace(
        DATASETS={"count": None}, create_dataset=lambda _, size, seed: Task(size, seed, questions)
    )
    monkeypatch.setitem(sys.modules, "reasoning_gym", SimpleNamespace(factory=factory))
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", factory)


def test_no_question_of_train_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    install_task(monkeypatch, questions=1000)
    corpus = read_corpus("gym:count:1000")
    by_split = {
        split: {d.data for d in corpus.documents if d.split == split} for split in ("train", "dev", "test")
    }
    assert all(by_split.values())
    assert not by_split["train"] & (by_split["dev"] | by_split["test"])
    assert not by_split["dev"] & by_split["test"]
    assert corpus.skipped["asked before"] > 0
    assert corpus.skipped["without an answer"] >= 1
    assert b"Question: What  is 100?\nAnswer: 100\n" in by_split["dev"]


def test_a_task_with_too_few_questions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install_task(monkeypatch, questions=20)
    assert "too few" in refusal("gym:count")
    assert "there are count" in refusal("gym:none")
    assert "is no number of items" in refusal("gym:count:many")


def test_seeds_of_the_splits_never_meet() -> None:
    first = sorted(questions.FIRST_SEED.values())
    assert all(b - a >= questions.MAX_COUNT for a, b in itertools.pairwise(first))


@needs("reasoning_gym")
@pytest.mark.parametrize("task", ["chain_sum", "gcd", "syllogism"])
def test_real_tasks_are_a_function_of_their_name(task: str) -> None:
    once, again = read_corpus(f"gym:{task}:200"), read_corpus(f"gym:{task}:200")
    assert once.documents == again.documents
    assert once.licence.startswith("Apache-2.0")
    assert {d.split for d in once.documents} == {"train", "dev", "test"}
    assert all(d.data.startswith(b"Question: ") and b"\nAnswer: " in d.data for d in once.documents)
