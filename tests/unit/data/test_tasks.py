"""Tasks of Forge's own: every answer is right, by other means than those it was made with."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from forge.config import DataConfig
from forge.data import has_questions, load_tokenizer, prepare, read_corpus, tasks
from forge.data.questions import SHARES
from forge.errors import CorpusError

COUNT = 500
KINDS = sorted(tasks.TASKS)


@functools.cache
def items(name: str) -> tuple[tuple[str, str, list[tuple[str, str]]], ...]:
    """Split, whole text, and the questions with their answers of every document."""
    found = []
    for document in read_corpus(f"task:{name}:{COUNT}").documents:
        text = document.data.decode()
        lines = text.splitlines()
        assert all(line.startswith("Question: ") for line in lines[::2])
        assert all(line.startswith("Answer: ") for line in lines[1::2])
        pairs = [
            (q.removeprefix("Question: "), a.removeprefix("Answer: "))
            for q, a in zip(lines[::2], lines[1::2], strict=True)
        ]
        found.append((document.split or "", text, pairs))
    return tuple(found)


def test_recall_asks_for_what_it_told_and_from_far() -> None:
    for _, _, pairs in items("recall"):
        words = pairs[0][0].split()
        told = dict(zip(words[: 2 * tasks.PAIRS : 2], words[1 : 2 * tasks.PAIRS : 2], strict=True))
        assert len(told) == len(pairs) == tasks.PAIRS
        assert {(q.split()[-1], a) for q, a in pairs} == set(told.items())
        between = words[2 * tasks.PAIRS : -1]
        assert len(between) == tasks.GAP
        assert not set(between) & {*tasks.KEYS, *tasks.VALUES}
    # What is told first is not what is asked first, nor a value that goes with its key.
    assert len({pairs[0][0].split()[-1] == pairs[0][0].split()[0] for _, _, pairs in items("recall")}) == 2
    assert len({pair for _, _, pairs in items("recall") for pair in pairs}) > 0.6 * 32 * 32


def test_permutations_are_products_of_matrices() -> None:
    def matrix(word: str) -> np.ndarray:
        return np.array([[symbol == other for other in "abc"] for symbol in word], dtype=int)

    lengths = set()
    for _, _, [(question, answer)] in items("permutations"):
        product = functools.reduce(
            lambda made, word: matrix(word) @ made, question.split(), np.eye(3, dtype=int)
        )
        assert (product == matrix(answer)).all()
        lengths.add(len(question.split()))
    assert lengths == {2, 3, 4, 5, 6}
    assert len({answer for _, _, [(_, answer)] in items("permutations")}) == 6


def test_modular_arithmetic_goes_from_left_to_right() -> None:
    for _, _, [(question, answer)] in items("modular"):
        first, *rest = question.split()
        # Brackets around everything so far, and Python does the sum.
        text = functools.reduce(
            lambda so_far, step: f"({so_far}{step})",
            map("".join, zip(rest[::2], rest[1::2], strict=True)),
            first,
        )
        assert eval(text) % 7 == int(answer)  # noqa: S307
    assert {answer for _, _, [(_, answer)] in items("modular")} == set("0123456")


@pytest.mark.parametrize("name", KINDS)
def test_what_is_held_out_is_asked_nowhere_else(name: str) -> None:
    first = {split: {pairs[0][0] for s, _, pairs in items(name) if s == split} for split in SHARES}
    assert all(first.values())
    assert not first["train"] & first["dev"]
    assert not first["train"] & first["test"]
    assert not first["dev"] & first["test"]


@pytest.mark.parametrize("name", KINDS)
def test_a_task_is_the_same_everywhere_and_a_larger_one_begins_the_same(name: str) -> None:
    again, larger = read_corpus(f"task:{name}:{COUNT}"), read_corpus(f"task:{name}:{2 * COUNT}")
    assert sorted(d.data.decode() for d in again.documents) == sorted(text for _, text, _ in items(name))
    train = {text for split, text, _ in items(name) if split == "train"}
    assert train <= {d.data.decode() for d in larger.documents if d.split == "train"}
    assert again.hash != larger.hash


def test_the_items_are_pinned() -> None:
    # Another corpus by the same name would make a session's report compare what cannot be compared.
    assert [read_corpus(f"task:{name}:{COUNT}").hash[:8] for name in KINDS] == [
        "6971de20", "0e896521", "3e79175a",
    ]  # fmt: skip


def test_beside_them_a_tokenizer_gives_every_symbol_one_token(tmp_path: Path) -> None:
    shares = [{"corpus": f"task:{name}"} for name in KINDS]
    data = DataConfig.model_validate({"mix": {"base": shares}})
    tokenizer = load_tokenizer(prepare(data, 400, tmp_path).tokenizer)
    permutations = {answer for _, _, [(_, answer)] in items("permutations")}
    for word in (*tasks.KEYS, *tasks.VALUES, *tasks.FILLERS, *permutations, *"0123456+-*"):
        assert len(tokenizer.encode(f" {word}")) == 1, word


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("task:juggling", "there is no task juggling; there are modular, permutations, recall"),
        ("task:recall:99", "99 is no number of items"),
        ("task:recall:many", "many is no number of items"),
    ],
)
def test_what_is_no_task_is_refused(spec: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason):
        read_corpus(spec)


def test_only_tasks_have_questions() -> None:
    assert [has_questions(spec) for spec in ("task:recall", "gym:gcd:500", "stdlib", "text:/x", "what")] == [
        True, True, False, False, False,
    ]  # fmt: skip
