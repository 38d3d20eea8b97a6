"""Splits: every document in exactly one, none empty, and a document stays where it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.config import DataConfig
from forge.data.documents import SPLITS, Document
from forge.data.split import choose_documents, split_documents
from forge.errors import CorpusError

_bodies = st.lists(st.binary(min_size=1, max_size=20), min_size=3, max_size=40, unique=True)
_fraction = st.floats(0.01, 0.49)


def documents(bodies: list[bytes]) -> list[Document]:
    """A document for each body."""
    return [Document.of(f"{i}", body) for i, body in enumerate(bodies)]


def numbered(count: int) -> list[Document]:
    """Different documents of the same length."""
    return documents([f"document {i:05}".encode() for i in range(count)])


@settings(deadline=None)
@given(_bodies, _fraction, _fraction)
def test_a_partition_without_empty_parts(bodies: list[bytes], dev: float, test: float) -> None:
    found = documents(bodies)
    splits = split_documents(found, DataConfig(dev_fraction=dev, test_fraction=test))
    assert tuple(splits) == SPLITS
    assert all(splits.values())
    parts = sorted((d for part in splits.values() for d in part), key=lambda d: d.digest)
    assert parts == sorted(found, key=lambda d: d.digest)


@settings(deadline=None)
@given(_bodies, st.randoms(use_true_random=False))
def test_order_of_the_files_does_not_matter(bodies: list[bytes], random: object) -> None:
    found = documents(bodies)
    mixed = found.copy()
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert split_documents(mixed, DataConfig()) == split_documents(found, DataConfig())


def test_fractions_are_met_on_average() -> None:
    splits = split_documents(numbered(5000), DataConfig(dev_fraction=0.1, test_fraction=0.05))
    assert len(splits["dev"]) == pytest.approx(500, rel=0.15)
    assert len(splits["test"]) == pytest.approx(250, rel=0.2)


def test_a_document_stays_in_its_split_when_others_come() -> None:
    fewer, more = (split_documents(numbered(count), DataConfig()) for count in (500, 900))
    for split in SPLITS:
        assert {d.digest for d in fewer[split]} <= {d.digest for d in more[split]}


def test_the_limit_takes_documents_of_every_split_alike() -> None:
    # The limit takes the lowest hashes; were the split by the same bits, none of them would be trained on.
    data = DataConfig(dev_fraction=0.2, test_fraction=0.2, max_bytes=14 * 1000)
    splits = split_documents(numbered(5000), data)
    assert sum(len(part) for part in splits.values()) == 1000
    assert len(splits["dev"]) == pytest.approx(200, rel=0.25)


@settings(deadline=None)
@given(_bodies, st.integers(1, 200))
def test_the_limit_is_kept_and_used(bodies: list[bytes], limit: int) -> None:
    found = documents(bodies)
    chosen = choose_documents(found, limit)
    left = limit - sum(len(d.data) for d in chosen)
    assert left >= 0
    assert all(len(d.data) > left for d in found if d not in chosen)
    assert choose_documents(found[::-1], limit) == chosen


@pytest.mark.parametrize(
    ("count", "says"), [(0, "no documents left"), (1, "1 document left"), (2, "2 documents")]
)
def test_fewer_than_three_documents_are_refused(count: int, says: str) -> None:
    with pytest.raises(CorpusError, match=f"text:x.*{says}.*three are needed"):
        split_documents(numbered(count), DataConfig(corpus="text:x"))


def test_a_limit_that_leaves_too_little_is_named() -> None:
    with pytest.raises(CorpusError, match="max_bytes 20"):
        split_documents(numbered(9), DataConfig(max_bytes=20))
