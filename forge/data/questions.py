"""Procedural tasks as text: questions with their answers in one template, whoever draws them.

An item is a pure function of (task, split, index). The splits take numbers far apart, and a question that one
split has is in no later one: small tasks repeat themselves, and a repeated question would not be held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from forge.data.documents import Document, Skipped, Split, UnusableError
from forge.data.rows import row_text
from forge.errors import CorpusError

ANSWER = "Answer:"
"""What stands before an answer, which ends with its line."""
TEMPLATE = "Question: {question}\n" + ANSWER + " {answer}\n"
DEFAULT_COUNT = 5_000
MAX_COUNT = 1_000_000
SHARES: dict[Split, float] = {"train": 0.92, "dev": 0.04, "test": 0.04}
"""Share of the items that each split gets before repeated questions are taken out."""
FIRST_SEED: dict[Split, int] = {"train": 0, "dev": 1_000_000_000, "test": 2_000_000_000}
"""Item i of a split is drawn with its first seed + i, so ranges of `MAX_COUNT` never meet."""

Pairs = Sequence[tuple[str, str | None]]
"""Questions with their answers that make up one item; none is a question without one."""
Draw = Callable[[Split, int], Iterator[Pairs]]
"""So many items of a split, one after the other."""


def task_and_count(spec: str) -> tuple[str, int]:
    """The name in `KIND:TASK[:count]`, and how many items are wanted; raises CorpusError."""
    task, _, amount = spec.partition(":")[2].partition(":")
    try:
        count = int(amount) if amount else DEFAULT_COUNT
    except ValueError:
        count = 0
    if not 100 <= count <= MAX_COUNT:
        raise CorpusError(f"corpus {spec}: {amount} is no number of items from 100 to {MAX_COUNT:,}.")
    return task, count


def documents(spec: str, draw: Draw, skipped: Skipped) -> Iterator[Document]:
    """Every item as a document in its split; what was asked before is skipped and counted."""
    task, count = task_and_count(spec)
    asked: set[str] = set()
    for split, share in SHARES.items():
        kept = 0
        for index, pairs in enumerate(draw(split, round(count * share))):
            where = f"{task} {split} {index}"
            # The first question is what tells two items apart; white space aside, as documents are compared.
            same = " ".join(pairs[0][0].split())
            missing = any(answer is None for _, answer in pairs)
            if missing or same in asked:
                skipped.add("without an answer" if missing else "asked before", where)
                continue
            asked.add(same)
            text = "".join(TEMPLATE.format(question=q.strip(), answer=answer) for q, answer in pairs)
            try:
                data = row_text(text, "question")
            except UnusableError as error:
                skipped.add(error.reason, where)
                continue
            kept += 1
            yield Document.of(where, data, split)
        if not kept:
            raise CorpusError(
                f"corpus {spec}: {split} has no question with an answer that was not asked before; the "
                "task has too few. Ask for fewer items, or choose a task with more."
            )
