"""Documents, the unit that is split and held out, and the count of what could not be one.

A document is UTF-8 text without NUL bytes and more than white space, whatever it was read from.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

EMPTY = "empty"
"""Reason of a file without text; packages are full of them, so nobody needs to be told."""


@dataclass(frozen=True)
class Document:
    """One file or row of a corpus: UTF-8 text without NUL bytes, more than white space."""

    name: str
    """Path relative to the corpus, for display; always valid Unicode."""
    data: bytes
    digest: str
    """SHA-256 of `data` in hex; orders documents, picks their split, and names the corpus."""
    split: Split | None = None
    """The split it belongs to, where its corpus decides that; None lets its hash decide."""
    part: int = 0
    """Which corpus of a mix it comes from."""

    @classmethod
    def of(cls, name: str, data: bytes, split: Split | None = None) -> Document:
        """A document with its digest."""
        return cls(
            os.fsencode(name).decode("utf-8", "replace"), data, hashlib.sha256(data).hexdigest(), split
        )


class UnusableError(Exception):
    """A file or row that is no document; `reason` completes "3 were skipped: …"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def require_text(data: bytes) -> bytes:
    """The same bytes, if they are a document's; else raises `UnusableError`."""
    if not data.strip():
        raise UnusableError(EMPTY)
    if b"\0" in data:
        raise UnusableError("binary")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableError("not UTF-8") from error
    return data


class Skipped:
    """What was left out: how often for each reason, and where first."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        """Count one; `where` is shown for the first of a reason alone."""
        self._counts[reason] += 1
        self._first.setdefault(reason, os.fsencode(where).decode("utf-8", "replace"))

    @property
    def counts(self) -> dict[str, int]:
        """How many by reason, in the order of the reasons."""
        return dict(sorted(self._counts.items()))

    @property
    def first(self) -> dict[str, str]:
        """The first place of each reason."""
        return dict(self._first)


@dataclass(frozen=True)
class Source:
    """A corpus that was opened but not read."""

    licence: str
    """Goes into the model card."""
    documents: Iterable[Document]
    python_version: str | None = None
    """The Python that the text belongs to, where it belongs to one."""
