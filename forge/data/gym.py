"""Procedural tasks of reasoning-gym, an extra; how its items become text is in `forge.data.questions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forge.data import questions
from forge.data.documents import Skipped, Source, Split
from forge.data.questions import FIRST_SEED, Pairs
from forge.errors import CorpusError

LICENCE = "Apache-2.0 (reasoning-gym)"


def open_gym(spec: str, skipped: Skipped) -> Source:
    """`gym:TASK[:count]`: `count` items of one task, `DEFAULT_COUNT` where it is not said."""
    task, _ = questions.task_and_count(spec)
    create = _factory(spec, task)

    def draw(split: Split, size: int) -> Iterator[Pairs]:
        items = create(task, size=size, seed=FIRST_SEED[split])
        for index in range(size):
            item = items[index]
            answer = item["answer"]
            yield [(str(item["question"]), None if answer is None else str(answer))]

    return Source(LICENCE, questions.documents(spec, draw, skipped))


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
