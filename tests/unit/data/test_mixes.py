"""Mixes: one tokenizer and one set of shards for all corpora, windows in the proportions asked for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.config import DataConfig, PipelineConfig, contradictions, load_config
from forge.data import TokenData, eval_windows, load_tokenizer, prepare, train_batch
from forge.data.batches import batch_corpora, epochs, epochs_warning
from forge.errors import CorpusError

SEQ_LEN = 16


def write(root: Path, letter: str, documents: int) -> str:
    """A corpus in which every word begins with one letter."""
    (root / letter).mkdir(parents=True)
    for i in range(documents):
        words = " ".join(f"{letter}{i * j % 97}" for j in range(60 + i))
        (root / letter / f"{i}.txt").write_text(words, encoding="utf-8")
    return f"text:{root}/{letter}/*.txt"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where three corpora and the cache are."""
    root = tmp_path_factory.mktemp("mix")
    for letter, count in (("a", 40), ("b", 20), ("c", 12)):
        write(root, letter, count)
    return root


def mixed(place: Path, **mix: dict[str, float]) -> DataConfig:
    """A configuration; `mixed(place, base={"a": 1, "b": 3})`."""
    named = {
        branch: [{"corpus": f"text:{place}/{letter}/*.txt", "weight": w} for letter, w in parts.items()]
        for branch, parts in mix.items()
    }
    return DataConfig.model_validate(
        {"mix": named, "seq_len": SEQ_LEN, "dev_fraction": 0.2, "test_fraction": 0.2}
    )


@pytest.fixture(scope="module")
def config(place: Path) -> DataConfig:
    """Two corpora for the base, and a third that one branch alone is trained on."""
    return mixed(place, base={"a": 1, "b": 3}, memory={"c": 1, "a": 1})


@pytest.fixture(scope="module")
def data(place: Path, config: DataConfig) -> TokenData:
    """All three, prepared together."""
    return prepare(config, 400, place / "cache")


def test_each_corpus_has_its_span_and_only_its_own_text(place: Path, data: TokenData) -> None:
    tokenizer = load_tokenizer(data.tokenizer)
    assert [part.spec[-7] for part in data.info.parts] == ["a", "b", "c"]
    for split in ("train", "dev", "test"):
        for part in data.info.parts:
            text = tokenizer.decode(data.tokens(split, part.spec))
            assert {word[0] for word in text.replace("<|endoftext|>", " ").split()} == {part.spec[-7]}
            assert data.tokens(split, part.spec)[0] == data.tokens(split, part.spec)[-1] == 0
        spans = [data.span(split, part.spec) for part in data.info.parts]
        assert spans[0][0] == 0
        assert spans[-1][1] == len(data.tokens(split)) == data.info.splits[split].tokens
        assert all(left[1] - 1 == right[0] for left, right in pairwise(spans))
    with pytest.raises(CorpusError, match="not in the prepared"):
        data.tokens("train", "text:elsewhere")


def test_the_tokenizer_learns_from_all_of_them(data: TokenData) -> None:
    # Single bytes are always there: a longer token was learned where it stands, and each stands in one.
    assert set(load_tokenizer(data.tokenizer).token_bytes) >= {b" a", b" b", b" c"}


def test_weights_and_order_prepare_nothing_anew(place: Path, data: TokenData) -> None:
    said: list[str] = []
    other = mixed(place, base={"b": 1, "a": 7}, speed={"c": 1})
    assert prepare(other, 400, place / "cache", said.append).folder == data.folder
    assert not any("into tokens" in line for line in said)


def test_windows_come_from_the_branchs_own_corpora(config: DataConfig, data: TokenData) -> None:
    spans = {part.spec[-7]: data.span("train", part.spec) for part in data.info.parts}
    for branch, letters in (("base", "ab"), ("memory", "ca"), ("speed", "ab")):
        shares = config.shares(branch)  # type: ignore[arg-type]
        assert [share.corpus[-7] for share in shares] == list(letters)
        tokenizer = load_tokenizer(data.tokenizer)
        seen = set()
        for step in range(20):
            for window in train_batch(data, 5, step, 8, SEQ_LEN, shares):
                words = tokenizer.decode(window).replace("<|endoftext|>", " ").split()
                first = {word[0] for word in words if not word[0].isdigit()}
                assert len(first) <= 1, "a window crosses from one corpus into another"
                seen |= first
        assert seen == set(letters)
    assert set(spans) == set("abc")


def test_a_batch_is_a_function_of_seed_step_and_weights(config: DataConfig, data: TokenData) -> None:
    base, memory = config.shares(), config.shares("memory")
    later = train_batch(data, 5, 9, 8, SEQ_LEN, base)
    for step in range(9):
        train_batch(data, 5, step, 8, SEQ_LEN, memory)  # What was drawn before changes nothing.
    np.testing.assert_array_equal(train_batch(data, 5, 9, 8, SEQ_LEN, base), later)
    assert (train_batch(data, 6, 9, 8, SEQ_LEN, base) != later).any()
    assert (train_batch(data, 5, 10, 8, SEQ_LEN, base) != later).any()
    assert (train_batch(data, 5, 9, 8, SEQ_LEN, memory) != later).any()


def test_a_mix_of_one_is_that_corpus(place: Path) -> None:
    spec = f"text:{place}/a/*.txt"
    alone = DataConfig(corpus=spec, seq_len=SEQ_LEN, dev_fraction=0.2, test_fraction=0.2)
    one, same = mixed(place, base={"a": 5.0}), prepare(alone, 400, place / "cache")
    assert prepare(one, 400, place / "cache").folder == same.folder
    assert alone.shares("memory")[0].corpus == spec
    np.testing.assert_array_equal(
        train_batch(same, 1, 2, 8, SEQ_LEN, alone.shares()), train_batch(same, 1, 2, 8, SEQ_LEN)
    )


@settings(max_examples=40, deadline=None)
@given(weights=st.lists(st.floats(0.05, 20), min_size=1, max_size=6), seed=st.integers(0, 2**63))
def test_proportions_hold(weights: list[float], seed: int) -> None:
    draws = np.concatenate([batch_corpora(weights, seed, step, 100) for step in range(100)])
    assert draws.min() >= 0
    assert draws.max() < len(weights)
    wanted = np.array(weights) / sum(weights)
    found = np.bincount(draws, minlength=len(weights)) / len(draws)
    # Six standard deviations of a binomial share.
    assert (np.abs(found - wanted) <= 6 * np.sqrt(wanted * (1 - wanted) / len(draws)) + 1e-9).all()


def test_the_draw_of_a_corpus_is_pinned() -> None:
    assert batch_corpora([1, 2, 1], 7, 1000, 12).tolist() == [0, 0, 1, 0, 1, 1, 2, 2, 1, 0, 2, 1]


def test_each_corpus_is_measured_alone(data: TokenData) -> None:
    for part in data.info.parts:
        windows = list(eval_windows(data, "dev", SEQ_LEN, corpus=part.spec))
        assert sum(size for _, size in windows) == part.splits["dev"].bytes
    whole = sum(size for _, size in eval_windows(data, "dev", SEQ_LEN))
    assert whole == data.info.splits["dev"].bytes == sum(p.splits["dev"].bytes for p in data.info.parts)


def test_epochs_are_counted_by_corpus(config: DataConfig, data: TokenData) -> None:
    a, b = (share.corpus for share in config.shares())
    read = epochs(100, 8, SEQ_LEN, data, config.shares())
    assert read[b] / read[a] == pytest.approx(3 * len(data.tokens("train", a)) / len(data.tokens("train", b)))
    warning = epochs_warning(10_000, 8, SEQ_LEN, data, config.shares())
    assert warning is not None
    assert b in warning
    assert a not in warning


def test_what_one_corpus_holds_out_another_does_not_train_on(tmp_path: Path) -> None:
    for folder, change in (("x", ""), ("y", " and a last line\n")):
        (tmp_path / folder).mkdir()
        for i in range(30):
            text = "".join(f"line {i} {j}\n" for j in range(20)) + (change if i % 2 else "")
            (tmp_path / folder / f"{i}.txt").write_text(text, encoding="utf-8")
        (tmp_path / folder / "own.txt").write_text(f"{folder} alone " * 40, encoding="utf-8")
    for i in range(4):
        for folder in ("x", "y"):
            (tmp_path / folder / f"more{i}.txt").write_text(f"{folder}{i} only " * 50, encoding="utf-8")
    made = prepare(mixed(tmp_path, base={"x": 1, "y": 1}), 300, tmp_path / "cache")
    assert made.info.exact_duplicates + made.info.near_duplicates == 30


def test_contradictions_of_a_mix_come_together(place: Path) -> None:
    mix = {
        "base": [{"corpus": "gym:gcd:500"}, {"corpus": "nonsense"}],
        "speed": [{"corpus": "gym:gcd"}, {"corpus": "stdlib"}, {"corpus": "stdlib", "weight": 2}],
    }
    tiny = load_config("tiny").model_dump()
    wrong = PipelineConfig.model_validate({**tiny, "data": {**tiny["data"], "corpus": "text:/x", "mix": mix}})
    assert {place for place, _ in contradictions(wrong)} == {
        "data.corpus",
        "data.mix",
        "data.mix.base.1.corpus",
        "data.mix.speed.2.corpus",
    }
