"""From text to training batches: corpora, tokenizer, token shards. Imports neither torch nor tokenizers."""

from forge.data.batches import epochs, epochs_warning, eval_windows, train_batch
from forge.data.corpora import CORPORA, Corpus, CorpusKind, has_questions, read_corpus
from forge.data.documents import SPLITS, Document, Split
from forge.data.prepare import prepare, prepare_for
from forge.data.shards import CorpusInfo, HeldOutDocument, PartInfo, SplitInfo, TokenData, open_shards
from forge.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

__all__ = [
    "CORPORA",
    "SPLITS",
    "Corpus",
    "CorpusInfo",
    "CorpusKind",
    "Document",
    "HeldOutDocument",
    "PartInfo",
    "Split",
    "SplitInfo",
    "TokenData",
    "Tokenizer",
    "epochs",
    "epochs_warning",
    "eval_windows",
    "has_questions",
    "load_tokenizer",
    "open_shards",
    "prepare",
    "prepare_for",
    "read_corpus",
    "train_batch",
    "train_tokenizer",
]
