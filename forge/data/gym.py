"""Procedural tasks of reasoning-gym as text: a question and its answer in one template.

An item is a pure function of (task, seed, index). The splits take seeds far apart, and a question that one
split has is in no later one: small tasks repeat themselves, and a repeated question would not be held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forge.data.documents import Document, Skipped, Source, Split, UnusableError
from forge.data.rows import row_text
from forge.errors import CorpusError

TEMPLATE = "Question: {question}\nAnswer: {answer}\n"
DEFAULT_COUNT = 5_000
MAX_COUNT = 1_000_000
SHARES: dict[Split, float] = {"train": 0.92, "dev": 0.04, "test": 0.04}
"""Share of the items that each split gets before repeated questions are taken out."""
FIRST_SEED: dict[Split, int] = {"train": 0, "dev": 1_000_000_000, "test": 2_000_000_000}
"""Item i of a split is drawn with its first seed + i, so ranges of `MAX_COUNT` never meet."""
LICENCE = "Apache-2.0 (reasoning-gym)"


def open_gym(spec: str, skipped: Skipped) -> Source:
    """`gym:TASK[:count]`: `count` items of one task, `DEFAULT_COUNT` where it is not said."""
    task, _, amount = spec.partition(":")[2].partition(":")
    try:
        count = int(amount) if amount else DEFAULT_COUNT
    except ValueError:
        count = 0
    if not 100 <= count <= MAX_COUNT:
        raise CorpusError(f"corpus {spec}: {amount} is no number of items from 100 to {MAX_COUNT:,}.")
    create = _factory(spec, task)
    return Source(LICENCE, _documents(spec, task, count, create, skipped))


def _factory(spec: str, task: str) -> Any:
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise CorpusError(
            f"corpus {spec}: it needs reasoning-gym. Install it: pip install 'forge-tui[gym]'."
        ) from error
    if task not in DATASETS:
        raise CorpusError(
            f"corpus {spec}: there is no task {task or '(none named)'}; there are "
            f"{', '.join(sorted(DATASETS))}."
        )
    return create_dataset


def _documents(spec: str, task: str, count: int, create: Any, skipped: Skipped) -> Iterator[Document]:
    asked: set[str] = set()
    for split, share in SHARES.items():
        size = round(count * share)
        items = create(task, size=size, seed=FIRST_SEED[split])
        kept = 0
        for index in range(size):
            where = f"{task} {split} {index}"
            item = items[index]
            question, answer = str(item["question"]).strip(), item["answer"]
            # White space aside, as documents are compared.
            same = " ".join(question.split())
            if answer is None or same in asked:
                skipped.add("without an answer" if answer is None else "asked before", where)
                continue
            asked.add(same)
            try:
                data = row_text(TEMPLATE.format(question=question, answer=answer), "question")
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
