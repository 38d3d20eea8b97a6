"""Forge's own procedural tasks, one visible table: what the phases need and no other program has to bring.

An item is a pure function of its seed. Alphabets are small and closed, so that a tokenizer trained on them
gives every key, value and digit one token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from forge.data import questions
from forge.data.documents import Skipped, Source, Split
from forge.data.questions import FIRST_SEED, Pairs
from forge.errors import CorpusError

LICENCE = "Apache-2.0 (drawn by Forge)"

KEYS = tuple(a + b for a in "bdfgklmn" for b in "aeiu")
VALUES = tuple(str(number) for number in range(10, 42))
FILLERS = ("the", "of", "and", "to", "in", "is", "it", "on", "as", "at", "by", "or", "up", "so", "we", "he")
PAIRS, GAP = 4, 48
"""Of `recall`: pairs told, and words between the last of them and the first question."""

SYMBOLS = "abc"
MODULUS = 7


@dataclass(frozen=True)
class Task:
    """One kind of item."""

    about: str
    """What is asked, in a line."""
    draw: Callable[[random.Random], Pairs]
    """One item from a generator of its own."""


def recall(rng: random.Random) -> Pairs:
    """Pairs of a key and a value, then other words, then every key again: no weight can know the answers."""
    keys, values = rng.sample(KEYS, PAIRS), rng.choices(VALUES, k=PAIRS)
    told = " ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))
    between = " ".join(rng.choices(FILLERS, k=GAP))
    asked = list(zip(keys, values, strict=True))
    rng.shuffle(asked)
    (key, value), *others = asked
    return [(f"{told} {between} {key}", value), *others]


def permutations(rng: random.Random) -> Pairs:
    """What is left of `abc` after two to six permutations, each written as what it makes of `abc`."""
    state = SYMBOLS
    applied = []
    for _ in range(rng.randint(2, 6)):
        one = "".join(rng.sample(SYMBOLS, len(SYMBOLS)))
        applied.append(one)
        state = "".join(state[SYMBOLS.index(symbol)] for symbol in one)
    return [(" ".join(applied), state)]


def modular(rng: random.Random) -> Pairs:
    """Two to five additions, subtractions and multiplications from left to right, modulo 7."""
    total = rng.randrange(MODULUS)
    steps = [str(total)]
    for _ in range(rng.randint(2, 5)):
        sign, number = rng.choice("+-*"), rng.randrange(MODULUS)
        steps += [sign, str(number)]
        total = {"+": total + number, "-": total - number, "*": total * number}[sign] % MODULUS
    return [(" ".join(steps), str(total))]


TASKS: Mapping[str, Task] = {
    "recall": Task("values told long before, by their keys (associative recall)", recall),
    "permutations": Task("permutations of three letters, one after the other (the word problem of S3)",
                         permutations),
    "modular": Task("arithmetic modulo 7 from left to right", modular),
}  # fmt: skip
"""Every task of Forge's own; adding one is a function and a line here."""


def open_task(spec: str, skipped: Skipped) -> Source:
    """`task:NAME[:count]`: `count` items of one task, `DEFAULT_COUNT` where it is not said."""
    name, _ = questions.task_and_count(spec)
    task = TASKS.get(name)
    if task is None:
        raise CorpusError(
            f"corpus {spec}: there is no task {name or '(none named)'}; there are {', '.join(sorted(TASKS))}."
        )

    def draw(split: Split, size: int) -> Iterator[Pairs]:
        for index in range(size):
            # Seeded by text, which Python promises to hash the same everywhere.
            yield task.draw(random.Random(f"{name} {FIRST_SEED[split] + index}"))

    return Source(LICENCE, questions.documents(spec, draw, skipped))
