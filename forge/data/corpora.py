"""Corpora: where training text comes from, one visible table of kinds.

A corpus is a function of its documents' bytes alone: they come out in the order of their hashes, so neither
the order of a directory nor a file's name or time can change what is trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from forge.data.documents import Document, Skipped, Source
from forge.data.files import open_stdlib, open_text
from forge.data.gym import open_gym
from forge.data.hub import open_hub
from forge.data.rows import open_jsonl, open_parquet
from forge.data.tasks import open_task
from forge.errors import CorpusError

MAX_CORPUS_BYTES = 2 * 2**30
"""A corpus is held in memory while it is prepared."""
MAX_DOCUMENTS = 4_000_000
"""Each costs some 500 bytes beside its text."""


@dataclass(frozen=True)
class Corpus:
    """Everything that was found, before duplicates are removed."""

    spec: str
    licence: str
    python_version: str | None
    documents: tuple[Document, ...]
    """In the order of (digest, name)."""
    skipped: Mapping[str, int]
    """Files and rows that were left out, by reason."""

    @property
    def hash(self) -> str:
        """SHA-256 over the sorted digests of the documents, in hex."""
        digests = (document.digest for document in self.documents)
        return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()

    @property
    def n_bytes(self) -> int:
        """Bytes of all documents."""
        return sum(len(document.data) for document in self.documents)


@dataclass(frozen=True)
class CorpusKind:
    """A kind of corpus: how it is written, and how it is opened."""

    usage: str
    """How it is written in `data.corpus`."""
    open: Callable[[str, Skipped], Source]
    """The whole spec to its documents; raises CorpusError, then or while they are read."""
    questions: bool = False
    """Its documents are questions with answers, in the template of `forge.data.questions`."""
    endless: bool = False
    """It may be larger than any disk: with `data.max_bytes` it is read from its beginning up to there."""


CORPORA: Mapping[str, CorpusKind] = {
    "stdlib": CorpusKind("stdlib", open_stdlib),
    "text": CorpusKind("text:GLOB", open_text),
    "jsonl": CorpusKind("jsonl:GLOB[#field]", open_jsonl),
    "parquet": CorpusKind("parquet:GLOB[#column]", open_parquet),
    "hf": CorpusKind("hf:NAME[:config][#column]", open_hub, endless=True),
    "gym": CorpusKind("gym:TASK[:count]", open_gym, questions=True),
    "task": CorpusKind("task:NAME[:count]", open_task, questions=True),
}
"""Every kind of corpus; adding one is a function and a line here."""


def has_questions(spec: str) -> bool:
    """Whether a corpus is made of questions with answers, which a model can be examined on."""
    kind = CORPORA.get(spec.partition(":")[0])
    return kind is not None and kind.questions


def read_corpus(spec: str, max_bytes: int | None = None) -> Corpus:
    """Read every document of a corpus; files and rows that are not usable text are skipped and counted.

    `max_bytes` ends the reading of an endless corpus; which documents of another are used is decided later.

    Raises:
        CorpusError: unknown kind, nothing found, nothing usable among what was found, or too large.
    """
    kind = CORPORA.get(spec.partition(":")[0])
    if kind is None:
        kinds = ", ".join(known.usage for known in CORPORA.values())
        raise CorpusError(f"corpus {spec}: there is no such kind. Set data.corpus to one of: {kinds}.")
    skipped = Skipped()
    source = kind.open(spec, skipped)
    documents: list[Document] = []
    total = 0
    for document in source.documents:
        total += len(document.data)
        if kind.endless and max_bytes is not None and total > max_bytes:
            break
        if total > MAX_CORPUS_BYTES or len(documents) == MAX_DOCUMENTS:
            raise CorpusError(_too_large(spec, kind))
        documents.append(document)
    if not documents:
        raise CorpusError(_nothing_usable(spec, skipped))
    documents.sort(key=lambda document: (document.digest, document.name))
    return Corpus(spec, source.licence, source.python_version, tuple(documents), skipped.counts)


def _too_large(spec: str, kind: CorpusKind) -> str:
    advice = "Set data.max_bytes to read its beginning alone" if kind.endless else "Name fewer files"
    return (
        f"corpus {spec}: it is larger than {MAX_CORPUS_BYTES / 2**30:g} GiB or {MAX_DOCUMENTS:,} documents, "
        f"too large to prepare in memory. {advice}."
    )


def _nothing_usable(spec: str, skipped: Skipped) -> str:
    counts = skipped.counts
    if not counts:
        return f"corpus {spec}: no file was found. Check the path; ~ and ** work, hidden files must be named."
    count = sum(counts.values())
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts.items())
    what = "the only file found is not" if count == 1 else f"none of the {count} files found is"
    if spec.partition(":")[0] not in ("stdlib", "text"):
        places = ", ".join(sorted(set(skipped.first.values())))
        what = "the only row found is not" if count == 1 else f"none of the {count} rows found is"
        return f"corpus {spec}: {what} usable text ({reasons}; look at {places}). Give it rows of UTF-8 text."
    return f"corpus {spec}: {what} usable text ({reasons}). Give it UTF-8 text files."
