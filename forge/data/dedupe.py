"""Exact and near duplicates, removed before the split so that no held-out document was trained on.

The result is exactly that of comparing every pair: candidates come from prefix filtering (Chaudhuri et al.
2006; Bayardo et al. 2007, "Scaling up all pairs similarity search"), which never misses a pair above the
threshold. A sketch would be as fast here and could miss one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from forge.data.documents import Document

THRESHOLD = Fraction(4, 5)
"""Jaccard similarity of line sets from which two documents count as the same. A fraction, because
0.8 * 5 in floating point decides ties by rounding."""


@dataclass(frozen=True)
class Deduplicated:
    """What is left of a corpus, and how much was removed."""

    documents: tuple[Document, ...]
    """In the order of (digest, name)."""
    exact: int
    near: int


def remove_duplicates(documents: Iterable[Document]) -> Deduplicated:
    """Keep the first of every group of alike documents, in the order of their hashes.

    Going through the documents in that order, one is dropped when its set of lines has a Jaccard similarity
    of at least `THRESHOLD` with one already kept. Lines are compared without regard to white space, and empty
    lines do not count; so a document that is one long line has only exact duplicates. Documents whose corpus
    decided their split have no near duplicates.
    """
    ordered = sorted(documents, key=lambda document: (document.digest, document.name))
    unique = list({document.digest: document for document in reversed(ordered)}.values())[::-1]
    kept: list[Document] = []
    index = _PrefixIndex()
    for document, lines in zip(unique, _rare_first(unique), strict=True):
        if document.split is not None:
            # Its corpus took repeated questions out; two questions of one task share most of their lines.
            kept.append(document)
        elif not index.has_similar(lines):
            index.add(lines)
            kept.append(document)
    return Deduplicated(tuple(kept), exact=len(ordered) - len(unique), near=len(unique) - len(kept))


def jaccard(a: set[int] | frozenset[int], b: set[int] | frozenset[int]) -> Fraction:
    """Size of the intersection over size of the union; empty sets are like nothing."""
    shared = len(a & b)
    union = len(a) + len(b) - shared
    return Fraction(shared, union) if union else Fraction(0)


def normalised_lines(data: bytes) -> set[bytes]:
    """The different lines of a document, white space collapsed, empty ones left out."""
    lines = {b" ".join(line.split()) for line in data.splitlines()}
    lines.discard(b"")
    return lines


def _rare_first(documents: Sequence[Document]) -> list[list[int]]:
    """Each document's lines as numbers, ascending; the rarer a line in the corpus, the smaller its number."""
    sets = [normalised_lines(document.data) for document in documents]
    frequency = Counter(line for lines in sets for line in lines)
    # Any numbering finds the same duplicates; this one finds them fast.
    rank = {line: i for i, line in enumerate(sorted(frequency, key=frequency.__getitem__))}
    return [sorted(rank[line] for line in lines) for lines in sets]


class _PrefixIndex:
    """Kept documents by the rarest of their lines.

    With lines in one global order, two sets of Jaccard >= t share a line among the first |A| - ceil(t|A|) + 1
    of A and the first |B| - ceil(t|B|) + 1 of B. Rarest first makes those lists short.
    """

    def __init__(self) -> None:
        self._sets: list[frozenset[int]] = []
        self._postings: dict[int, list[int]] = {}

    def add(self, lines: list[int]) -> None:
        """Keep a document's lines."""
        number = len(self._sets)
        self._sets.append(frozenset(lines))
        for line in lines[: _prefix_length(len(lines))]:
            self._postings.setdefault(line, []).append(number)

    def has_similar(self, lines: list[int]) -> bool:
        """Whether a kept document is at least `THRESHOLD` alike."""
        mine = frozenset(lines)
        prefix = lines[: _prefix_length(len(lines))]
        candidates = {number for line in prefix for number in self._postings.get(line, ())}
        return any(
            # Sizes further apart than this cannot be alike, whatever they share.
            min(len(mine), len(other)) >= THRESHOLD * max(len(mine), len(other))
            and jaccard(mine, other) >= THRESHOLD
            for other in (self._sets[number] for number in candidates)
        )


def _prefix_length(size: int) -> int:
    return size - math.ceil(THRESHOLD * size) + 1
