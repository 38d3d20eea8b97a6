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

from forge.config import DataConfig
from forge.data.corpora import Corpus, Document, read_corpus
from forge.data.dedupe import Deduplicated, remove_duplicates
from forge.data.shards import (
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
from forge.data.split import SPLITS, Split, split_documents
from forge.data.tokenizer import EOS_ID, engine_from_json, token_byte_strings, train_tokenizer
from forge.errors import CorpusError

if TYPE_CHECKING:
    from numpy.typing import NDArray
