"""The one entry point: from a `DataConfig` to token shards, from the cache where they are there already.

Order matters: duplicates go before the split, and the tokenizer learns from the train split alone; else what
is held out was seen.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forge.config import Branch, DataConfig, PipelineConfig, TrainingConfig
from forge.data.batches import epochs_warning
from forge.data.corpora import MAX_CORPUS_BYTES, Corpus, read_corpus
from forge.data.dedupe import Deduplicated, remove_duplicates
from forge.data.documents import EMPTY, SPLITS, Document, Split
from forge.data.shards import (
    TOKEN_TYPE,
    TOKENIZER_FILE,
    CorpusInfo,
    HeldOutDocument,
    PartInfo,
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
    config: PipelineConfig,
    training: TrainingConfig,
    cache: Path,
    status: Status,
    warn: Warn,
    branch: Branch = "base",
) -> TokenData:
    """Token shards for one phase: enough for a batch, with a warning where they are read too often."""
    seq_len = config.data.seq_len
    needed = training.batch_size * (seq_len + 1)
    shards = prepare(config.data, config.model.vocab_size, cache, status, min_tokens=needed)
    if sentence := epochs_warning(
        training.steps, training.batch_size, seq_len, shards, config.data.shares(branch)
    ):
        warn("epochs", sentence)
    return shards


def prepare(
    data: DataConfig, vocab_size: int, cache: Path, status: Status = _say_nothing, *, min_tokens: int = 0
) -> TokenData:
    """Token shards of all corpora of a configuration, made now or found in `cache`.

    `status` hears what takes time. The corpora are read either way: their hashes are what finds the shards.
    `min_tokens` is what one batch needs, `batch_size * (seq_len + 1)`; one sequence and its next token are
    needed in any case.

    Raises:
        CorpusError: the corpus is missing, empty, binary or too small, or the cache cannot be written.
    """
    corpora = [_read(spec, data.max_bytes, status) for spec in data.corpora]
    together = sum(corpus.n_bytes for corpus in corpora)
    if together > MAX_CORPUS_BYTES:
        raise CorpusError(
            f"corpus {_names(corpora)}: together they are larger than {MAX_CORPUS_BYTES / 2**30:g} GiB, too "
            "large to prepare in memory. Name fewer."
        )
    key = cache_key(corpora, data, vocab_size)
    ready = open_shards(cache / key)
    if ready is None:
        try:
            ready = _build(corpora, data, vocab_size, cache, key, status)
        except OSError as error:
            raise CorpusError(
                f"corpus {_names(corpora)}: its tokens cannot be written to {cache}: "
                f"{error.strerror or error}. Make room or fix the folder's permissions, or choose another "
                "home with FORGE_HOME=/path."
            ) from error
    for spec in (ready.info.spec, *data.corpora):
        whole = spec == ready.info.spec
        found = len(ready.tokens("train", None if whole else spec))
        # Every corpus gives whole sequences; the batch may come from all of them.
        needed = max(data.seq_len + 1, min_tokens if whole else 0)
        if found < needed:
            raise CorpusError(
                f"corpus {spec}: the train split has {found:,} tokens and a batch needs "
                f"{needed:,}. Add text, or make data.seq_len or the batch size smaller."
            )
    status(f"the corpus is ready: {len(ready.train):,} tokens to train on")
    return ready


def _read(spec: str, max_bytes: int | None, status: Status) -> Corpus:
    status(f"reading the corpus {spec}")
    corpus = read_corpus(spec, max_bytes)
    for reason, count in corpus.skipped.items():
        if reason != EMPTY:
            unit = "file" if spec.partition(":")[0] in ("stdlib", "text") else "row"
            status(f"skipped {count} {unit}{'' if count == 1 else 's'}: {reason}")
    return corpus


def _build(
    corpora: Sequence[Corpus], data: DataConfig, vocab_size: int, cache: Path, key: str, status: Status
) -> TokenData:
    with sole_writer(cache, key, status):
        # Whoever held the lock before has most likely done the work.
        ready = open_shards(cache / key)
        if ready is not None:
            return ready
        if (cache / key).exists():
            status(f"the cached tokens in {cache / key} are damaged; making them again")
        everything = [replace(d, part=n) if n else d for n, c in enumerate(corpora) for d in c.documents]
        status(f"looking for duplicates in {len(everything):,} documents")
        # In all corpora at once: what one holds out, another must not train on.
        found = remove_duplicates(everything)
        parts = [_split_part(corpus, n, found, data) for n, corpus in enumerate(corpora)]
        trained_on = [document for part in parts for document in part["train"]]
        status(f"training the tokenizer on {_megabytes(trained_on)}")
        tokenizer_json = train_tokenizer((_text(document) for document in trained_on), vocab_size)
        tokenizer = parse_tokenizer(tokenizer_json, cache / key / TOKENIZER_FILE)
        every_text = [document for part in parts for split in SPLITS for document in part[split]]
        status(f"turning {_megabytes(every_text)} into tokens")
        encoded = {split: _encode(tokenizer, [part[split] for part in parts]) for split in SPLITS}
        sizes = {split: part_sizes for split, (_, part_sizes) in encoded.items()}
        described = [
            _describe_part(c, parts[n], {s: sizes[s][n] for s in SPLITS}) for n, c in enumerate(corpora)
        ]
        info = _describe(described, found, parts, key, tokenizer.vocab_size, tokenizer_json)
        ready = open_shards(write_shards(cache, info, {s: e[0] for s, e in encoded.items()}, tokenizer_json))
    if ready is None:
        raise CorpusError(
            f"corpus {_names(corpora)}: the tokens written to {cache / key} read back otherwise. "
            "Check the disk."
        )
    return ready


def _split_part(
    corpus: Corpus, number: int, found: Deduplicated, data: DataConfig
) -> Mapping[Split, list[Document]]:
    mine = [document for document in found.documents if document.part == number]
    return split_documents(mine, data.model_copy(update={"corpus": corpus.spec}))


def _encode(
    tokenizer: Tokenizer, parts: Sequence[Sequence[Document]]
) -> tuple[NDArray[np.uint16], list[int]]:
    """`eos doc eos doc … eos`, part after part, and the tokens of each part but for the eos before it.

    Every document has a beginning to start from and an end to predict.
    """
    end = np.array([EOS_ID], dtype=TOKEN_TYPE)
    pieces, sizes = [end], []
    for documents in parts:
        sizes.append(0)
        for ids in tokenizer.encode_all(_text(document) for document in documents):
            pieces += [ids, end]
            sizes[-1] += len(ids) + 1
    return np.concatenate(pieces), sizes


def _describe_part(
    corpus: Corpus, splits: Mapping[Split, Sequence[Document]], tokens: Mapping[Split, int]
) -> PartInfo:
    return PartInfo(
        spec=corpus.spec,
        licence=corpus.licence,
        python_version=corpus.python_version,
        corpus_hash=corpus.hash,
        splits={
            split: SplitInfo(documents=len(splits[split]), bytes=_bytes(splits[split]), tokens=tokens[split])
            for split in SPLITS
        },
        skipped=corpus.skipped,
    )


def _describe(
    described: Sequence[PartInfo],
    found: Deduplicated,
    parts: Sequence[Mapping[Split, Sequence[Document]]],
    key: str,
    vocab_size: int,
    tokenizer_json: bytes,
) -> CorpusInfo:
    skipped: Counter[str] = Counter()
    for part in described:
        skipped.update(part.skipped)
    hashes = [part.corpus_hash for part in described]
    return CorpusInfo(
        key=key,
        spec=_names(described),
        licence="; ".join(dict.fromkeys(part.licence for part in described)),
        python_version=next((p.python_version for p in described if p.python_version), None),
        corpus_hash=hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        vocab_size=vocab_size,
        tokenizer_sha256=hashlib.sha256(tokenizer_json).hexdigest(),
        splits={split: _sum_sizes([part.splits[split] for part in described]) for split in SPLITS},
        held_out={
            split: tuple(
                HeldOutDocument(name=document.name, bytes=len(document.data))
                for part in parts
                for document in part[split]
            )
            for split in SPLITS
            if split != "train"
        },
        exact_duplicates=found.exact,
        near_duplicates=found.near,
        skipped=dict(sorted(skipped.items())),
        parts=tuple(described),
    )


def _sum_sizes(sizes: Sequence[SplitInfo]) -> SplitInfo:
    return SplitInfo(
        documents=sum(size.documents for size in sizes),
        bytes=sum(size.bytes for size in sizes),
        tokens=1 + sum(size.tokens for size in sizes),  # The shard begins with an end of its own.
    )


def _names(corpora: Iterable[Corpus | PartInfo]) -> str:
    return " + ".join(corpus.spec for corpus in corpora)


def _text(document: Document) -> str:
    return document.data.decode("utf-8")


def _bytes(documents: Sequence[Document]) -> int:
    return sum(len(document.data) for document in documents)


def _megabytes(documents: Sequence[Document]) -> str:
    return f"{_bytes(documents) / 1e6:,.1f} MB"
