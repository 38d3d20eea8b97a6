"""Corpora: where training text comes from, one visible table of kinds.

A corpus is a function of its documents' bytes alone: they come out in the order of their hashes, so neither
the order of a directory nor a file's name or time can change what is trained on.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from forge.errors import CorpusError

MAX_FILE_BYTES = 64 * 2**20
"""A larger file is skipped and counted: it is a dump or a log, not a document."""
MAX_CORPUS_BYTES = 2 * 2**30
"""A corpus is held in memory while it is prepared."""

EMPTY = "empty"
"""Reason of a file without text; packages are full of them, so nobody needs to be told."""

_GLOB_MAGIC = frozenset("*?[")
# `_sysconfigdata*` and `config-*` hold this machine's build paths: with them no two machines share a hash.
_STDLIB_LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload", "__pycache__"}
)


@dataclass(frozen=True)
class Document:
    """One file of a corpus: UTF-8 text without NUL bytes, more than white space."""

    name: str
    """Path relative to the corpus, for display; always valid Unicode."""
    data: bytes
    digest: str
    """SHA-256 of `data` in hex; orders documents, picks their split, and names the corpus."""

    @classmethod
    def of(cls, name: str, data: bytes) -> Document:
        """A document with its digest."""
        return cls(os.fsencode(name).decode("utf-8", "replace"), data, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Corpus:
    """Everything that was found, before duplicates are removed."""

    spec: str
    licence: str
    python_version: str | None
    documents: tuple[Document, ...]
    """In the order of (digest, name)."""
    skipped: Mapping[str, int]
    """Files that were left out, by reason."""

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
    """A kind of corpus: how its files are found, and what is recorded about it."""

    usage: str
    """How it is written in `data.corpus`."""
    licence: str
    """Goes into the model card."""
    find: Callable[[str], Iterable[tuple[str, Path]]]
    """The whole spec to (name, path) of every candidate file; raises CorpusError when it names none."""
    python_version: str | None = None
    """The Python that the text belongs to, where it belongs to one."""


def _find_stdlib(spec: str) -> Iterator[tuple[str, Path]]:
    if spec != "stdlib":
        raise CorpusError(f"corpus {spec}: stdlib takes no argument. Set data.corpus to stdlib.")
    root = Path(sysconfig.get_paths()["stdlib"]).resolve()
    if not (root / "os.py").is_file():
        # Zipped and stripped distributions hold compiled modules only.
        raise CorpusError(
            f"corpus {spec}: this Python came without the source of its standard library (looked in {root}). "
            "Use another Python, or text:GLOB."
        )
    for parent, folders, files in os.walk(root):
        folders[:] = [
            name for name in folders if name not in _STDLIB_LEFT_OUT and not name.startswith("config-")
        ]
        for name in files:
            path = Path(parent, name)
            if not name.endswith(".py") or name.startswith("_sysconfigdata"):
                continue
            # Distributions link sitecustomize.py to /etc: that is this machine's, not the library's.
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                continue
            yield str(path.relative_to(root)), path


def _find_text(spec: str) -> Iterator[tuple[str, Path]]:
    pattern = spec.partition(":")[2]
    if not pattern.strip():
        raise CorpusError(
            f"corpus {spec}: no files are named. Write text:GLOB, for example text:~/notes/**/*.md."
        )
    try:
        whole = Path(pattern).expanduser()
        if whole.is_dir():
            raise CorpusError(
                f"corpus {spec}: this is a folder. Name files in it: {spec.rstrip('/')}/**/*.txt."
            )
        if whole.exists():
            yield whole.name, whole
            return
        yield from _matches(spec, whole)
    except (ValueError, RuntimeError, OSError) as error:
        # A NUL byte, `**` glued to other characters, `~nobody`, or a name that the system refuses.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CorpusError(
            f"corpus {spec}: the pattern cannot be used: {reason}. Correct data.corpus."
        ) from error


def _matches(spec: str, whole: Path) -> Iterator[tuple[str, Path]]:
    """Files that match the pattern; hidden ones only where the pattern itself names them, as in a shell."""
    parts = whole.parts
    first = next((i for i, part in enumerate(parts) if _GLOB_MAGIC & set(part)), len(parts))
    base, rest = Path(*parts[:first]), list(parts[first:])
    if not rest:
        return
    if base.is_dir() and not os.access(base, os.R_OK | os.X_OK):
        raise CorpusError(f"corpus {spec}: the folder {base} cannot be read by you. Fix its permissions.")
    if rest[-1] == "**":
        rest.append("*")
    wants_hidden = any(part.startswith(".") for part in rest)
    # pathlib's `**` does not follow links to folders, so a cycle of links cannot trap it.
    for path in base.glob("/".join(rest)):
        inside = path.relative_to(base)
        hidden = any(part.startswith(".") for part in inside.parts)
        if (wants_hidden or not hidden) and not path.is_dir():
            yield str(inside), path


CORPORA: Mapping[str, CorpusKind] = {
    "stdlib": CorpusKind("stdlib", "PSF-2.0", _find_stdlib, platform.python_version()),
    "text": CorpusKind("text:GLOB", "unknown (your own files)", _find_text),
}
"""Every kind of corpus; adding one is a function and a line here."""


def read_corpus(spec: str) -> Corpus:
    """Read every document of a corpus; files that are not usable text are skipped and counted.

    Raises:
        CorpusError: unknown kind, nothing found, nothing usable among what was found, or too large.
    """
    kind = CORPORA.get(spec.partition(":")[0])
    if kind is None:
        kinds = ", ".join(known.usage for known in CORPORA.values())
        raise CorpusError(f"corpus {spec}: there is no such kind. Set data.corpus to one of: {kinds}.")
    documents: list[Document] = []
    skipped: Counter[str] = Counter()
    total = 0
    for name, path in kind.find(spec):
        try:
            data = read_text_file(path)
        except _UnusableFile as error:
            skipped[error.reason] += 1
            continue
        total += len(data)
        if total > MAX_CORPUS_BYTES:
            raise CorpusError(
                f"corpus {spec}: it is larger than {MAX_CORPUS_BYTES / 2**30:g} GiB, too large to prepare in "
                "memory. Name fewer files."
            )
        documents.append(Document.of(name, data))
    if not documents:
        raise CorpusError(_nothing_usable(spec, skipped))
    documents.sort(key=lambda document: (document.digest, document.name))
    return Corpus(spec, kind.licence, kind.python_version, tuple(documents), dict(sorted(skipped.items())))


def _nothing_usable(spec: str, skipped: Counter[str]) -> str:
    if not skipped:
        return f"corpus {spec}: no file was found. Check the path; ~ and ** work, hidden files must be named."
    count = skipped.total()
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(skipped.items()))
    what = "the only file found is not" if count == 1 else f"none of the {count} files found is"
    return f"corpus {spec}: {what} usable text ({reasons}). Give it UTF-8 text files."


class _UnusableFile(Exception):
    """A file that is no document; `reason` completes "3 files were …"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_text_file(path: Path) -> bytes:
    """The bytes of a regular file that holds UTF-8 text; anything else raises `_UnusableFile`."""
    try:
        # Looked at before it is opened: opening a device can already do something.
        if not stat.S_ISREG(path.stat().st_mode):
            raise _UnusableFile("not a regular file")
        data = _read_regular(path)
    except OSError as error:
        raise _UnusableFile("unreadable") from error
    if not data.strip():
        raise _UnusableFile(EMPTY)
    if b"\0" in data:
        raise _UnusableFile("binary")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _UnusableFile("not UTF-8") from error
    return data


def _read_regular(path: Path) -> bytes:
    # O_NONBLOCK: should a FIFO have taken the file's place since, opening it must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _UnusableFile("not a regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise _UnusableFile(f"larger than {MAX_FILE_BYTES // 2**20} MiB")
        # One byte more than it should have: shows a growing log, and the endless files of /proc.
        data = file.read(found.st_size + 1)
    if len(data) > found.st_size:
        raise _UnusableFile("growing while it was read")
    return data
