"""Duplicates: the same result as comparing every pair, whatever the order that files come in."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from forge.data.dedupe import THRESHOLD, normalised_lines, remove_duplicates
from forge.data.documents import Document

# Few different lines, and sets that grow by one: many pairs right at the threshold.
_texts = st.lists(
    st.lists(st.sampled_from([f"line {i}" for i in range(14)]), min_size=1, max_size=14).map("\n".join),
    max_size=24,
)


def documents(texts: list[str]) -> list[Document]:
    """A document for each text, named by its position."""
    return [Document.of(f"{i}.txt", text.encode("utf-8")) for i, text in enumerate(texts)]


def alike(a: Document, b: Document) -> bool:
    """The definition, by itself."""
    x, y = normalised_lines(a.data), normalised_lines(b.data)
    return Fraction(len(x & y), len(x | y)) >= THRESHOLD


def by_every_pair(found: list[Document]) -> list[Document]:
    """The slow way: each document against all that were kept."""
    kept: list[Document] = []
    for document in sorted(found, key=lambda d: (d.digest, d.name)):
        if not any(alike(document, other) for other in kept):
            kept.append(document)
    return kept


@settings(deadline=None)
@given(_texts)
def test_equals_comparing_every_pair(texts: list[str]) -> None:
    found = documents(texts)
    result = remove_duplicates(found)
    assert list(result.documents) == by_every_pair(found)
    assert result.exact == len(texts) - len(set(texts))
    assert len(result.documents) + result.exact + result.near == len(texts)


@settings(deadline=None)
@given(_texts, st.randoms(use_true_random=False))
def test_order_of_the_files_does_not_matter(texts: list[str], random: object) -> None:
    found = documents(texts)
    mixed = found.copy()
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert remove_duplicates(mixed) == remove_duplicates(found)


def test_white_space_and_empty_lines_do_not_tell_documents_apart() -> None:
    result = remove_duplicates(documents(["a  b\n\tc\n", "a b\r\n\r\n   c", "other\n"]))
    assert (len(result.documents), result.exact, result.near) == (2, 0, 1)


def test_just_below_the_threshold_both_stay() -> None:
    nine = [f"line {i}" for i in range(9)]
    at, below = "\n".join(nine[:8]), "\n".join(nine[:7])
    whole = "\n".join([*nine, "line 9"])
    assert remove_duplicates(documents([whole, at])).near == 1  # 8 of 10
    assert remove_duplicates(documents([whole, below])).near == 0  # 7 of 10


def test_one_long_line_has_only_exact_duplicates() -> None:
    result = remove_duplicates(documents(["x " * 500, "x " * 500, "x " * 499 + "y"]))
    assert (len(result.documents), result.exact, result.near) == (2, 1, 0)
