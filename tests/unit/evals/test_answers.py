"""Exact match: what greedy generation would write, and nothing for guessing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from forge.config import DataConfig, ModelConfig, RecursionConfig, TrainingConfig
from forge.data import TokenData, load_tokenizer, prepare, read_corpus, train_batch
from forge.evals import Examination, HeldOut
from forge.evals.answers import BATCH, _places
from forge.models.decoder import Decoder
from forge.models.generate import generate
from forge.optim.trainer import Trainer

MODULAR, RECALL = "task:modular:1000", "task:recall:1000"
SHAPE = ModelConfig(vocab_size=360, d_model=32, n_layers=1, n_heads=2, d_ff=48, max_seq_len=128)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    """Two tasks, prepared together."""
    mix = {"base": [{"corpus": MODULAR}, {"corpus": RECALL}]}
    return prepare(DataConfig.model_validate({"mix": mix}), 360, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def held_out(shards: TokenData) -> HeldOut:
    """Arithmetic on the CPU."""
    return HeldOut(shards, 64, torch.device("cpu"), corpus=MODULAR)


class Parrot(Decoder):
    """Says whatever comes next, because it may look; but never the tokens that it is not to know."""

    def __init__(self, end: int, unknown: set[int] | None = None, config: ModelConfig = SHAPE) -> None:
        super().__init__(config)
        self.end, self.unknown = end, unknown or set()
        self.steps: set[int | None] = set()

    def forward(self, tokens: Tensor, cache: Any = None, steps: int | None = None) -> Tensor:
        assert tokens.shape[1] <= self.config.max_seq_len
        self.steps.add(steps)
        after = torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], self.end)), dim=1)
        for token in self.unknown:
            after = torch.where(after == token, 0, after)
        return torch.nn.functional.one_hot(after, self.config.vocab_size).float()


def texts(spec: str, split: str) -> list[str]:
    """The documents of a split, in the order of the shards."""
    found = [d for d in read_corpus(spec).documents if d.split == split]
    return [d.data.decode() for d in sorted(found, key=lambda d: d.digest)]


def answers(text: str) -> list[str]:
    return [line.removeprefix("Answer: ") for line in text.splitlines() if line.startswith("Answer: ")]


@pytest.mark.parametrize("spec", [MODULAR, RECALL])
def test_who_knows_all_is_right_and_who_lacks_a_word_is_wrong_where_it_stands(
    held_out: HeldOut, spec: str
) -> None:
    tokenizer = load_tokenizer(held_out.shards.tokenizer)
    exam = Examination(replace(held_out, corpus=spec), "test")
    (newline,) = tokenizer.encode("\n")
    assert exam.ask(Parrot(newline)).items.tolist() == [1.0] * len(texts(spec, "test"))
    word = answers(texts(spec, "test")[0])[0]
    (token,) = tokenizer.encode(f" {word}")
    expected = [np.mean([a != word for a in answers(text)]) for text in texts(spec, "test")]
    assert 0.5 < np.mean(expected) < 1
    assert exam.ask(Parrot(newline, {token})).items.tolist() == pytest.approx(expected)
    # Without the end of the line the answer could go on.
    assert exam.ask(Parrot(newline, {newline})).items.tolist() == [0.0] * len(expected)


def test_it_is_what_greedy_generation_writes(held_out: HeldOut) -> None:
    training = TrainingConfig(
        steps=60, batch_size=16, micro_batch=16, learning_rate=1e-2, warmup_steps=2, eval_every=60
    )
    model = Decoder(SHAPE).initialise(torch.Generator().manual_seed(0))
    trainer = Trainer(model, training, torch.device("cpu"))
    for step in range(training.steps):
        batch = torch.from_numpy(train_batch(held_out.shards, 1, step, 16, 64))
        trainer.train_step(step, batch[:, :-1], batch[:, 1:])
    score = Examination(held_out, "dev").ask(model)
    tokenizer = load_tokenizer(held_out.shards.tokenizer)
    spoken = []
    for text in texts(MODULAR, "dev"):
        asked = text[: text.index("Answer:") + len("Answer:")]
        wanted = tokenizer.encode(text[len(asked) :])
        prompt = [tokenizer.eos_id, *tokenizer.encode(asked)]
        said = list(generate(model, prompt, len(wanted), torch.Generator(), temperature=0.0))
        spoken.append(float(said == wanted))
    assert score.items.tolist() == spoken
    assert 0 < sum(spoken) < len(spoken)


@pytest.mark.parametrize(("spec", "least"), [(MODULAR, 1 / 7), (RECALL, 0.01)])
def test_chance_is_the_commonest_answer_of_what_was_trained_on(
    held_out: HeldOut, spec: str, least: float
) -> None:
    counts = Counter(a for text in texts(spec, "train") for a in answers(text))
    commonest = min(counts, key=lambda answer: (-counts[answer], answer))
    share = float(np.mean([a == commonest for text in texts(spec, "test") for a in answers(text)]))
    exam = Examination(replace(held_out, corpus=spec), "test")
    assert exam.chance == pytest.approx(share)
    assert least < exam.chance < 0.4
    (newline,) = load_tokenizer(held_out.shards.tokenizer).encode("\n")
    score = exam.ask(Parrot(newline))
    assert score.interval().mean == pytest.approx(1.0)
    nothing = exam.ask(Parrot(newline, {newline}))
    assert nothing.interval().mean == pytest.approx(-share / (1 - share))


def test_only_so_many_items_are_asked(held_out: HeldOut) -> None:
    (newline,) = load_tokenizer(held_out.shards.tokenizer).encode("\n")
    assert len(Examination(held_out, "test", 7).ask(Parrot(newline)).items) == 7


def test_what_is_longer_than_the_positions_is_not_answered(held_out: HeldOut) -> None:
    (newline,) = load_tokenizer(held_out.shards.tokenizer).encode("\n")
    short = Parrot(newline, config=SHAPE.model_copy(update={"max_seq_len": 90}))
    items = Examination(replace(held_out, corpus=RECALL), "test").ask(short).items
    assert 0 < items.mean() < 1


def test_a_recursion_is_asked_after_as_many_steps_as_are_said(held_out: HeldOut) -> None:
    recursive = SHAPE.model_copy(update={"recursion": RecursionConfig(supervision=3)})
    model = Decoder(recursive).initialise(torch.Generator().manual_seed(0))
    once = Decoder(recursive.model_copy(update={"recursion": RecursionConfig(supervision=1)}))
    once.load_state_dict(model.state_dict())
    tokens = torch.arange(20).view(1, 20)
    assert torch.equal(model(tokens, steps=1), once(tokens))
    assert torch.equal(model(tokens, steps=9), model(tokens))
    assert not torch.equal(model(tokens, steps=1), model(tokens))
    whole, one = (replace(held_out, steps=steps).bits_per_byte(model, "dev", 640) for steps in (None, 1))
    assert one == held_out.bits_per_byte(once, "dev", 640)
    assert one != whole
    parrot = Parrot(0)
    Examination(replace(held_out, steps=1), "dev", 5).ask(parrot)
    assert parrot.steps == {1}


def test_a_corpus_without_questions_is_refused(held_out: HeldOut, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(f"nothing is asked here {number} " * 9, "utf-8")
    spec = f"text:{tmp_path}/*.txt"
    plain = prepare(DataConfig(corpus=spec, seq_len=16), 300, tmp_path / "cache")
    with pytest.raises(ValueError, match="has no question in dev"):
        Examination(replace(held_out, shards=plain, corpus=spec), "dev")


def test_a_token_that_straddles_an_edge_is_part_of_the_answer() -> None:
    pieces = [b"Question: 1\nAns", b"wer: 1", b"2", b"\nQuest", b"ion: x\nAnswer:", b" y", b" z\n"]
    assert _places(pieces) == ([(1, 4), (5, 7)], [b"12", b"y z"])
    assert _places([b"Question: 1\n", b"no Answer: 2\n"]) == ([], [])


def test_whoever_waits_is_heard_before_each_batch(held_out: HeldOut) -> None:
    heard: list[int] = []
    exam = Examination(replace(held_out, poll=lambda: heard.append(1)), "test")
    questions = exam.ask(Parrot(0)).items.size
    assert questions > BATCH
    assert len(heard) == math.ceil(questions / BATCH)
