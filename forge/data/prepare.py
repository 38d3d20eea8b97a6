"""The one entry point: from a `DataConfig` to token shards, from the cache where they are there already.

Order matters: duplicates go before the split, and the tokenizer learns from the train split alone; else what
is held out was seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forge.config import DataConfig, PipelineConfig, TrainingConfig
from forge.data.batches import epochs_warning
from forge.data.corpora import Corpus, read_corpus
from forge.data.dedupe import Deduplicated, remove_duplicates
from forge.data.documents import EMPTY, SPLITS, Document, Split
from forge.data.shards import (
    TOKEN_TYPE,
    TOKENIZER_FILE,
    CorpusInfo,
    HeldOutDocument,
    SplitInfo,
    TokenData,
    cache_key,
    open_shards,
    sole_writer,
    write_shards,
)
from forge.data.split import split_documents
from forge.data.tokenizer import EOS_ID, Tokenizer, parse_tokenizer, train_tokenizer
from forge.errors import CorpusError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Status = Callable[[str], None]
Warn = Callable[[str, str], None]
"""Hears of a kind of warning, and its sentence."""


def _say_nothing(message: str) -> None:
    """The default of `status`."""


def prepare_for(
    config: PipelineConfig, training: TrainingConfig, cache: Path, status: Status, warn: Warn
) -> TokenData:
    """Token shards for one phase: enough for a batch, with a warning where they are read too often."""
    seq_len = config.data.seq_len
    needed = training.batch_size * (seq_len + 1)
    shards = prepare(config.data, config.model.vocab_size, cache, status, min_tokens=needed)
    if sentence := epochs_warning(training.steps, training.batch_size, seq_len, shards):
        warn("epochs", sentence)
    return shards


def prepare(
    data: DataConfig, vocab_size: int, cache: Path, status: Status = _say_nothing, *, min_tokens: int = 0
) -> TokenData:
    """Token shards of a corpus, made now or found in `cache`; says through `status` what takes time.

    The corpus itself is read either way: its hash is what finds the shards. `min_tokens` is what one batch
    needs, `batch_size * (seq_len + 1)`; one sequence and its next token are needed in any case.

    Raises:
        CorpusError: the corpus is missing, empty, binary or too small, or the cache cannot be written.
    """
    status(f"reading the corpus {data.corpus}")
    corpus = read_corpus(data.corpus, data.max_bytes)
    for reason, count in corpus.skipped.items():
        if reason != EMPTY:
            unit = "file" if corpus.spec.partition(":")[0] in ("stdlib", "text") else "row"
            status(f"skipped {count} {unit}{'' if count == 1 else 's'}: {reason}")
    key = cache_key(corpus, data, vocab_size)
    ready = open_shards(cache / key)
    if ready is None:
        try:
            ready = _build(corpus, data, vocab_size, cache, key, status)
        except OSError as error:
            raise CorpusError(
                f"corpus {data.corpus}: its tokens cannot be written to {cache}: {error.strerror or error}. "
                "Make room or fix the folder's permissions, or choose another home with FORGE_HOME=/path."
            ) from error
    needed = max(data.seq_len + 1, min_tokens)
    if len(ready.train) < needed:
        raise CorpusError(
            f"corpus {data.corpus}: the train split has {len(ready.train):,} tokens and a batch needs "
            f"{needed:,}. Add text, or make data.seq_len or the batch size smaller."
        )
    status(f"the corpus is ready: {len(ready.train):,} tokens to train on")
    return ready


def _build(
    corpus: Corpus, data: DataConfig, vocab_size: int, cache: Path, key: str, status: Status
) -> TokenData:
    with sole_writer(cache, key, status):
        # Whoever held the lock before has most likely done the work.
        ready = open_shards(cache / key)
        if ready is not None:
            return ready
        if (cache / key).exists():
            status(f"the cached tokens in {cache / key} are damaged; making them again")
        status(f"looking for duplicates in {len(corpus.documents):,} files")
        found = remove_duplicates(corpus.documents)
        splits = split_documents(found.documents, data)
        status(f"training the tokenizer on {_megabytes(splits['train'])}")
        tokenizer_json = train_tokenizer((_text(document) for document in splits["train"]), vocab_size)
        tokenizer = parse_tokenizer(tokenizer_json, cache / key / TOKENIZER_FILE)
        status(f"turning {_megabytes([d for split in SPLITS for d in splits[split]])} into tokens")
        shards = {split: _encode(tokenizer, splits[split]) for split in SPLITS}
        info = _describe(corpus, found, splits, shards, key, tokenizer.vocab_size, tokenizer_json)
        ready = open_shards(write_shards(cache, info, shards, tokenizer_json))
    if ready is None:
        raise CorpusError(
            f"corpus {data.corpus}: the tokens written to {cache / key} read back otherwise. Check the disk."
        )
    return ready


def _encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> NDArray[np.uint16]:
    """`eos doc eos doc … eos`: every document has a beginning to start from and an end to predict."""
    end = np.array([EOS_ID], dtype=TOKEN_TYPE)
    parts = [end]
    for ids in tokenizer.encode_all(_text(document) for document in documents):
        parts += [ids, end]
    return np.concatenate(parts)


def _describe(
    corpus: Corpus,
    found: Deduplicated,
    splits: Mapping[Split, Sequence[Document]],
    shards: Mapping[Split, NDArray[np.uint16]],
    key: str,
    vocab_size: int,
    tokenizer_json: bytes,
) -> CorpusInfo:
    sizes = {
        split: SplitInfo(documents=len(splits[split]), bytes=_bytes(splits[split]), tokens=len(shards[split]))
        for split in SPLITS
    }
    held_out: dict[Split, tuple[HeldOutDocument, ...]] = {
        split: tuple(
            HeldOutDocument(name=document.name, bytes=len(document.data)) for document in splits[split]
        )
        for split in SPLITS
        if split != "train"
    }
    return CorpusInfo(
        key=key,
        spec=corpus.spec,
        licence=corpus.licence,
        python_version=corpus.python_version,
        corpus_hash=corpus.hash,
        vocab_size=vocab_size,
        tokenizer_sha256=hashlib.sha256(tokenizer_json).hexdigest(),
        splits=sizes,
        held_out=held_out,
        exact_duplicates=found.exact,
        near_duplicates=found.near,
        skipped=corpus.skipped,
    )


def _text(document: Document) -> str:
    return document.data.decode("utf-8")


def _bytes(documents: Sequence[Document]) -> int:
    return sum(len(document.data) for document in documents)


def _megabytes(documents: Sequence[Document]) -> str:
    return f"{_bytes(documents) / 1e6:,.1f} MB"
