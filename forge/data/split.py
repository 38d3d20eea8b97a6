"""Train, dev and test: which documents are trained on and which are held out.

A document's split follows from its own hash, so it stays where it is when other documents come or go; the one
exception is a corpus so small that chance would leave a split empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from forge.config import DataConfig
from forge.data.documents import SPLITS, Document, Split
from forge.errors import CorpusError


def choose_documents(documents: Iterable[Document], max_bytes: int | None) -> list[Document]:
    """Whole documents of at most `max_bytes` together: in the order of their hashes, each that still fits."""
    ordered = sorted(documents, key=lambda document: (document.digest, document.name))
    if max_bytes is None:
        return ordered
    chosen, left = [], max_bytes
    for document in ordered:
        if len(document.data) <= left:
            chosen.append(document)
            left -= len(document.data)
    return chosen


def split_documents(documents: Iterable[Document], data: DataConfig) -> Mapping[Split, list[Document]]:
    """The documents of each split, every one in exactly one; no split is empty.

    Fractions are met on average, not exactly. Where chance leaves a split empty, the fullest one gives it the
    document that was nearest to it.

    Raises:
        CorpusError: fewer than three documents, so that nothing could be held out.
    """
    ordered = sorted(choose_documents(documents, data.max_bytes), key=place)
    if len(ordered) < len(SPLITS):
        raise CorpusError(_too_few(len(ordered), data))
    held_out = data.dev_fraction + data.test_fraction
    splits: dict[Split, list[Document]] = {"dev": [], "test": [], "train": []}
    for document in ordered:
        at = place(document)
        by_hash: Split = "dev" if at < data.dev_fraction else "test" if at < held_out else "train"
        splits[document.split or by_hash].append(document)
    _fill_empty(splits)
    return {split: sorted(splits[split], key=lambda document: document.digest) for split in SPLITS}


def place(document: Document) -> float:
    """Where a document stands in [0, 1], by the last 64 bits of its hash: dev first, test, then train."""
    # Not the first bits, which order documents: those that `max_bytes` takes would then all be held out.
    return int(document.digest[-16:], 16) / 2.0**64


def _fill_empty(splits: dict[Split, list[Document]]) -> None:
    """Fill empty splits in place; they come as dev, test, train, and each list in the order of `place`."""
    order = list(splits)
    for position, split in enumerate(order):
        if not splits[split]:
            giver = max(splits, key=lambda other: len(splits[other]))
            nearest = 0 if order.index(giver) > position else -1
            splits[split].append(splits[giver].pop(nearest))


def _too_few(count: int, data: DataConfig) -> str:
    left = f"{count or 'no'} document{'' if count == 1 else 's'}"
    limit = "" if data.max_bytes is None else f" and data.max_bytes {data.max_bytes}"
    return (
        f"corpus {data.corpus}: {left} left after removing duplicates{limit}; three are needed, to train on "
        "and to hold out for dev and test. Add files, or cut a large one up: split -l 1000 FILE PART-."
    )
