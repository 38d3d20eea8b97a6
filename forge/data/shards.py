"""Token shards: a corpus as numbers on disk, prepared once and mapped into memory by every run.

`cache/<key>/{train,dev,test}.bin` (uint16, little endian), `tokenizer.json`, `corpus.json`. A shard is
`eos doc eos doc … eos`. A folder under its final name is complete: it was written beside it, synced, renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from forge import durable
from forge.config import DataConfig
from forge.data.corpora import Corpus
from forge.data.documents import SPLITS, Split
from forge.data.tokenizer import token_byte_strings
from forge.errors import CorpusError
from forge.reading import read_plain
from forge.retention.tidy import half_cached

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 2
"""Raised by a change that gives other shards for the same text: layout, split, duplicates, tokenizer."""
TOKEN_TYPE = np.dtype("<u2")
TOKENIZER_FILE = "tokenizer.json"
_MOST_BYTES = 1 << 28
INFO_FILE = "corpus.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SplitInfo(_Record):
    """Size of one split."""

    documents: int
    bytes: int
    """UTF-8 bytes of the documents; what bits per byte divides by."""
    tokens: int
    """Tokens in the shard, the ends of documents included."""


class HeldOutDocument(_Record):
    """One document of dev or test, in the order of the shard."""

    name: str
    bytes: int


class PartInfo(_Record):
    """One corpus of the shards; in each shard the parts follow each other in this order."""

    spec: str
    licence: str
    python_version: str | None
    corpus_hash: str
    """SHA-256 over the sorted hashes of the documents found, duplicates included."""
    splits: Mapping[Split, SplitInfo]
    """Sizes; the end of a document is counted with the document before it."""
    skipped: Mapping[str, int]
    """Files and rows that were no usable text, by reason."""


class CorpusInfo(_Record):
    """`corpus.json`: what the shards were made from; goes into the model card."""

    format: int = FORMAT
    key: str
    """Name of the folder: a hash of everything that the shards depend on."""
    spec: str
    """All parts together, as are the next three."""
    licence: str
    python_version: str | None
    corpus_hash: str
    vocab_size: int
    """Tokens that exist; fewer than asked for where the text was too small to fill the vocabulary."""
    tokenizer_sha256: str
    splits: Mapping[Split, SplitInfo]
    held_out: Mapping[Split, tuple[HeldOutDocument, ...]]
    exact_duplicates: int
    near_duplicates: int
    skipped: Mapping[str, int]
    """Files and rows that were no usable text, by reason."""
    parts: tuple[PartInfo, ...]


@dataclass(frozen=True)
class TokenData:
    """A prepared corpus: shards mapped into memory, and what they were made from."""

    folder: Path
    info: CorpusInfo
    train: NDArray[np.uint16]
    dev: NDArray[np.uint16]
    test: NDArray[np.uint16]
    token_lengths: NDArray[np.int64]
    """(V,) UTF-8 bytes of each token; 0 for the end of a document."""

    @property
    def tokenizer(self) -> Path:
        """The `tokenizer.json`; see `load_tokenizer`."""
        return self.folder / TOKENIZER_FILE

    def tokens(self, split: Split, corpus: str | None = None) -> NDArray[np.uint16]:
        """The shard of a split, or what one corpus has in it; read-only."""
        whole = {"train": self.train, "dev": self.dev, "test": self.test}[split]
        if corpus is None:
            return whole
        first, last = self.span(split, corpus)
        return whole[first:last]

    def span(self, split: Split, corpus: str) -> tuple[int, int]:
        """Where a corpus lies in the shard of a split; the end of a document before it belongs to it too.

        Raises:
            CorpusError: it is none of the corpora that the shards were made from.
        """
        last = 1
        for part in self.info.parts:
            first, last = last - 1, last + part.splits[split].tokens
            if part.spec == corpus:
                return first, last
        raise CorpusError(
            f"corpus {corpus}: it is not in the prepared {self.info.spec}. Name it in data.mix."
        )


def cache_key(corpora: Sequence[Corpus], data: DataConfig, vocab_size: int) -> str:
    """Name of the folder for corpora prepared this way; `seq_len` is no part, shards are cut when read."""
    parts = {
        "format": FORMAT,
        "corpora": [(corpus.spec, corpus.hash, corpus.python_version) for corpus in corpora],
        "dev_fraction": data.dev_fraction,
        "test_fraction": data.test_fraction,
        "max_bytes": data.max_bytes,
        "vocab_size": vocab_size,
        "tokenizers": metadata.version("tokenizers"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()[:32]


def open_shards(folder: Path) -> TokenData | None:
    """Map a prepared corpus; None where there is none, or where it is not what its `corpus.json` says."""
    try:
        info = CorpusInfo.model_validate_json(read_plain(folder / INFO_FILE, _MOST_BYTES))
        tokenizer = read_plain(folder / TOKENIZER_FILE, _MOST_BYTES)
        if info.format != FORMAT or info.key != folder.name or set(info.splits) != set(SPLITS):
            return None
        if hashlib.sha256(tokenizer).hexdigest() != info.tokenizer_sha256:
            return None
        lengths = [len(token) for token in token_byte_strings(tokenizer, folder / TOKENIZER_FILE)]
        shards = {split: _map(shard_path(folder, split), info.splits[split].tokens) for split in SPLITS}
    except (OSError, ValidationError, CorpusError, _WrongSizeError):
        return None
    return TokenData(folder, info, **shards, token_lengths=np.array(lengths, dtype=np.int64))


def shard_path(folder: Path, split: Split) -> Path:
    """The file of one split."""
    return folder / f"{split}.bin"


class _WrongSizeError(Exception):
    """A shard that is not as long as `corpus.json` says."""


def _map(path: Path, tokens: int) -> NDArray[np.uint16]:
    if tokens < 1 or not path.is_file() or path.stat().st_size != tokens * TOKEN_TYPE.itemsize:
        raise _WrongSizeError(path)
    return np.memmap(path, dtype=TOKEN_TYPE, mode="r")


@contextlib.contextmanager
def sole_writer(cache: Path, key: str, status: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to write one folder of the cache, waiting for whoever holds it.

    The lock goes with the process, so a dead writer blocks nobody. Its file stays: removing a lock file that
    somebody may be opening would let two in.
    """
    durable.make_folder(cache)
    descriptor = os.open(cache / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            status("waiting for another run that prepares the same corpus")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_shards(
    cache: Path, info: CorpusInfo, shards: Mapping[Split, NDArray[np.uint16]], tokenizer: bytes
) -> Path:
    """Write a prepared corpus under its key, replacing what is there; call it inside `sole_writer`."""
    for leftover in half_cached(cache):
        if leftover.name.startswith(f".{info.key}."):
            durable.discard_tree(leftover)
    temporary = cache / f".{info.key}.tmp-{secrets.token_hex(4)}"
    durable.make_scratch(temporary)
    for split, tokens in shards.items():
        durable.write_file(shard_path(temporary, split), tokens.astype(TOKEN_TYPE, copy=False).tobytes())
    durable.write_file(temporary / TOKENIZER_FILE, tokenizer)
    durable.write_file(temporary / INFO_FILE, info.model_dump_json(indent=1).encode("utf-8"))
    durable.sync_folder(temporary)
    folder = cache / info.key
    if folder.exists() or folder.is_symlink():
        # A run that still maps the damaged files keeps them until it lets go.
        durable.remove_tree(folder)
    durable.move(temporary, folder)
    return folder
