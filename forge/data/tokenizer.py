"""Byte-level BPE: any text to numbers and back, exactly; there is no unknown token.

Text never becomes the special token: `<|endoftext|>` written in a document is ordinary text, so id 0 always
means that a document ended. Only functions that train or encode import `tokenizers`.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forge.errors import CorpusError, NotFoundError
from forge.reading import read_plain

if TYPE_CHECKING:
    import tokenizers
    from numpy.typing import NDArray

EOS = "<|endoftext|>"
EOS_ID = 0
_MOST_BYTES = 1 << 26
REPLACEMENT = "\ufffd".encode()

# An encoding costs some 150 bytes a token until it is read: long documents go in pieces, pieces in groups.
_PIECE_CHARACTERS = 2**18
_GROUP_CHARACTERS = 2**22
# Where a line of text ends, and where one space parts two words, the pre-tokenizer cuts anyway: the pieces
# give the tokens of the whole.
_SAFE_CUT = re.compile(r"(?<=\S\n)(?=\S)|(?<=\S)(?= \S)")


class Tokenizer:
    """A trained byte-level BPE; `load_tokenizer` makes one."""

    def __init__(self, engine: tokenizers.Tokenizer, token_bytes: tuple[bytes, ...]) -> None:
        self._engine = engine
        self.token_bytes = token_bytes
        """The bytes that each token stands for; none for the end of a document."""

    @property
    def eos_id(self) -> int:
        """The token between documents."""
        return EOS_ID

    @property
    def vocab_size(self) -> int:
        """Tokens that exist; fewer than asked for where the training text was too small to fill it."""
        return len(self.token_bytes)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; half a surrogate pair, which UTF-8 cannot hold, becomes a question mark."""
        ids: list[int] = self._engine.encode(_valid(text), add_special_tokens=False).ids
        return ids

    def encode_all(self, texts: Iterable[str]) -> Iterator[NDArray[np.uint16]]:
        """The tokens of many texts, one array each, in their order; on all cores and in bounded memory."""
        parts: list[NDArray[np.uint16]] = []
        for group in _groups(_pieces(_valid(text)) for text in texts):
            encodings = self._engine.encode_batch_fast(
                [piece for piece, _ in group], add_special_tokens=False
            )
            for encoding, (_, ends) in zip(encodings, group, strict=True):
                parts.append(np.asarray(encoding.ids, dtype=np.uint16))
                if ends:
                    yield np.concatenate(parts)
                    parts = []

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens; what is not UTF-8, and ids beyond the vocabulary, show as U+FFFD."""
        return b"".join(map(self._bytes, ids)).decode("utf-8", "replace")

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The same text as `decode`, as it comes: a character is held back until its last byte is there."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in ids:
            if text := decoder.decode(self._bytes(token)):
                yield text
        if rest := decoder.decode(b"", final=True):
            yield rest

    def _bytes(self, token: int) -> bytes:
        # A model may have more rows than the tokenizer has tokens, and an untrained one samples them.
        return self.token_bytes[token] if 0 <= token < len(self.token_bytes) else REPLACEMENT


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train on `texts`: the `tokenizer.json` of a vocabulary of at most `vocab_size`, special token included.

    The same texts in the same order give the same bytes, whatever the number of cores.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        # All 256 bytes, also those the texts lack: nothing is ever unknown.
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator((_valid(text) for text in texts), trainer)
    return engine.to_str().encode("utf-8")


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json` that `train_tokenizer` made.

    Raises:
        NotFoundError: there is no such file.
        CorpusError: the file is damaged, or is some other kind of tokenizer.
    """
    try:
        document = read_plain(path, _MOST_BYTES)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no tokenizer at {path}. Give the folder of a model that Forge made."
        ) from error
    except OSError as error:
        raise _damaged(path, error.strerror) from error
    return parse_tokenizer(document, path)


def parse_tokenizer(document: bytes, path: Path) -> Tokenizer:
    """A tokenizer from the content of a `tokenizer.json`; `path` is where it is from, for the CorpusError."""
    import tokenizers

    token_bytes = token_byte_strings(document, path)
    try:
        engine = tokenizers.Tokenizer.from_str(document.decode("utf-8"))
    except Exception as error:
        raise _damaged(path, error) from error
    engine.encode_special_tokens = True
    return Tokenizer(engine, token_bytes)


def token_byte_strings(document: bytes, path: Path) -> tuple[bytes, ...]:
    """The bytes of every token of a `tokenizer.json`, by id, without importing `tokenizers`.

    Raises:
        CorpusError: not a byte-level vocabulary with `<|endoftext|>` at 0; `path` is named.
    """
    alphabet = byte_alphabet()
    try:
        vocabulary: dict[str, int] = json.loads(document)["model"]["vocab"]
        by_id = {number: token for token, number in vocabulary.items()}
        if by_id[EOS_ID] != EOS:
            raise ValueError(f"token {EOS_ID} is {by_id[EOS_ID]!r}, not {EOS}")
        return (b"", *(bytes(alphabet[character] for character in by_id[i]) for i in range(1, len(by_id))))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from error


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2's `bytes_to_unicode`)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def _damaged(path: Path, reason: Any) -> CorpusError:
    return CorpusError(
        f"{path} is not a tokenizer that Forge made, or it is damaged: {reason}. Where it lies in Forge's "
        "cache, delete its folder and it will be made again."
    )


def _valid(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _pieces(text: str) -> list[str]:
    cuts = [0]
    while found := _SAFE_CUT.search(text, cuts[-1] + _PIECE_CHARACTERS):
        cuts.append(found.start())
    return [text[start:end] for start, end in pairwise([*cuts, len(text)])]


def _groups(documents: Iterable[list[str]]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces in groups of bounded size, each with whether it is the last of its document."""
    group: list[tuple[str, bool]] = []
    size = 0
    for pieces in documents:
        for i, piece in enumerate(pieces):
            group.append((piece, i == len(pieces) - 1))
            size += len(piece)
            if size >= _GROUP_CHARACTERS:
                yield group
                group, size = [], 0
    if group:
        yield group
