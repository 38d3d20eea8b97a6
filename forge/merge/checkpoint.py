"""A parent model on disk: its tensors, its configuration and its tokenizer, in one file or in shards.

A folder is believed where its files agree: what an index promises must be in the shard that it names.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from forge import locks
from forge.errors import MergeError
from forge.header import Entry
from forge.merge.codec import EXACT, STORED
from forge.merge.tensorfile import TensorFile
from forge.pickles import pickle_at
from forge.reading import read_plain

WEIGHTS, INDEX, CONFIG, CARD = "model.safetensors", "model.safetensors.index.json", "config.json", "card.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
)  # fmt: skip
"""Copied beside the merged weights where they exist."""
MAX_JSON = 1 << 28
"""Bytes of a file beside the weights."""
_LAYER = re.compile(r"(?:^|(.*?)\.)(\d+)\.")
_LAYER_COUNTS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|tok_embeddings|embeddings?|embed|embed_in|wte|wpe)\.")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|output|head|embed_out)\.weight\Z")


class Checkpoint:
    """An open parent model."""

    def __init__(self, path: Path) -> None:
        """Open a folder or a safetensors file and check every header.

        Raises:
            MergeError: missing, in another format, damaged, or with weights that cannot be merged.
        """
        self.path = path
        self.files: list[TensorFile] = []
        self._held = ExitStack()
        try:
            self._held.enter_context(locks.reading(path))
            self._where = self._open()
            self.config = self._json(CONFIG)
            self.card = self._json(CARD) or {}
            self._check_dtypes()
            self.tied = self._tied_head()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let its files go."""
        for file in self.files:
            file.close()
        self.files = []
        self._held.close()

    @property
    def tensors(self) -> Mapping[str, Entry]:
        """Every tensor to merge, as the files hold them; a tied head is not among them."""
        return {name: file.entries[name] for name, file in self._where.items() if name != self.tied}

    def file_of(self, name: str) -> TensorFile:
        """The file that holds a tensor."""
        return self._where[name]

    @property
    def layer_count(self) -> int | None:
        """Layers that the configuration claims."""
        found = [self.config[key] for key in _LAYER_COUNTS if key in self.config] if self.config else []
        return found[0] if found and type(found[0]) is int else None

    def stack(self) -> tuple[str, int] | None:
        """What stands before the number in the name of every layer's tensors, and the number of layers."""
        numbers: dict[str, set[int]] = {}
        for name in self._where:
            if match := _LAYER.match(name):
                numbers.setdefault(match[1] or "", set()).add(int(match[2]))
        whole = {prefix: len(found) for prefix, found in numbers.items() if found == set(range(len(found)))}
        if self.layer_count is not None:
            whole = {prefix: length for prefix, length in whole.items() if length == self.layer_count}
        return next(iter(whole.items())) if len(whole) == 1 else None

    def companions(self) -> Iterator[Path]:
        """The tokenizer's files and their like."""
        if self.path.is_dir():
            yield from (self.path / name for name in TOKENIZER_FILES if (self.path / name).is_file())

    @functools.cached_property
    def vocabulary(self) -> Mapping[str, Any] | None:
        """`model` and `added_tokens` of tokenizer.json; None where there is none."""
        document = self._json("tokenizer.json")
        if document is None:
            return None
        return {"model": document.get("model"), "added_tokens": document.get("added_tokens")}

    def _open(self) -> dict[str, TensorFile]:
        if (reason := pickle_at(self.path)) is not None:
            raise MergeError(reason)
        if self.path.is_file():
            return self._add(self.path)
        if not self.path.is_dir():
            raise MergeError(
                f"{self.path}: no such folder or file; Forge downloads nothing, so fetch the model first"
            )
        if (self.path / WEIGHTS).exists():
            return self._add(self.path / WEIGHTS)
        index = self._json(INDEX)
        if index is None:
            raise MergeError(
                f"{self.path}: neither {WEIGHTS} nor {INDEX} is there; other formats are not read"
            )
        return self._open_shards(index)

    def _open_shards(self, index: Mapping[str, Any]) -> dict[str, TensorFile]:
        shards = index.get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise MergeError(f"{self.path / INDEX}: weight_map is missing or empty")
        for name, shard in shards.items():
            if (
                not isinstance(shard, str)
                or Path(shard).name != shard
                or "\0" in shard
                or shard in ("", ".", "..")
            ):
                raise MergeError(
                    f"{self.path / INDEX}: {name} is in {shard!r:.60}, which is no file beside it"
                )
        entries = {shard: self._add(self.path / shard) for shard in sorted(set(shards.values()))}
        for name, shard in shards.items():
            if name not in entries[shard]:
                raise MergeError(f"{self.path / shard}: {name} is missing, but {INDEX} says that it is there")
        return {name: entries[shard][name] for name, shard in shards.items()}

    def _add(self, path: Path) -> dict[str, TensorFile]:
        file = TensorFile(path)
        self.files.append(file)
        return dict.fromkeys(file.entries, file)

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not self.path.is_dir() or not path.is_file():
            return None
        try:
            document = json.loads(read_plain(path, MAX_JSON).decode("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise MergeError(f"{path}: cannot be read: {error}") from error
        if not isinstance(document, dict):
            raise MergeError(f"{path}: not a JSON object")
        return document

    def _check_dtypes(self) -> None:
        for name, entry in self.tensors_and_head().items():
            if entry.dtype not in STORED and entry.dtype not in EXACT:
                raise MergeError(
                    f"{self.path}: {name} is stored as {entry.dtype}; weights in F32, F16 and BF16 are merged"
                )

    def tensors_and_head(self) -> Mapping[str, Entry]:
        """Every tensor of the files that are to be read."""
        return {name: file.entries[name] for name, file in self._where.items()}

    def _tied_head(self) -> str | None:
        """The stored copy of the embedding that serves as the head, where the configuration ties them."""
        if not self.config or self.config.get("tie_word_embeddings") is not True:
            return None
        outside = [name for name in self._where if not _LAYER.match(name)]
        heads = [name for name in outside if _HEAD.search(name)]
        tables = [name for name in outside if is_embedding(name) and name.endswith(".weight")]
        for head in heads:
            for table in tables:
                if self._where[head].entries[head].shape == self._where[table].entries[table].shape:
                    self._require_equal(head, table)
                    return head
        return None

    def _require_equal(self, head: str, table: str) -> None:
        if not self._where[head].same_bytes(head, self._where[table], table):
            raise MergeError(
                f"{self.path}: {CONFIG} ties {head} to {table}, but the two differ; "
                "remove the one that is wrong, or set tie_word_embeddings to false"
            )


def is_embedding(name: str) -> bool:
    """Whether a tensor belongs before the first layer."""
    return bool(_EMBEDDING.search(name)) and not _HEAD.search(name)


def layer_of(name: str, prefix: str) -> tuple[int, str] | None:
    """The layer of a tensor and the rest of its name; None for one outside the layers."""
    match = _LAYER.match(name)
    if match is None or (match[1] or "") != prefix:
        return None
    return int(match[2]), name[match.end() :]


def layer_name(prefix: str, layer: int, rest: str) -> str:
    """The name of a layer's tensor."""
    return f"{prefix}.{layer}.{rest}" if prefix else f"{layer}.{rest}"


def with_layers(config: Mapping[str, Any], layers: list[int]) -> dict[str, Any]:
    """A configuration for a model of the given layers of the configured one."""
    count = next((config[key] for key in _LAYER_COUNTS if key in config), None)
    changed = dict(config)
    for key, value in config.items():
        if key in _LAYER_COUNTS:
            changed[key] = len(layers)
        elif "layer" in key and isinstance(value, list) and len(value) == count:
            # What is told of each layer goes with it: layer_types, no_rope_layers.
            changed[key] = [value[layer] for layer in layers]
    return changed
