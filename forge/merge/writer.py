"""A safetensors file, written tensor by tensor: header first, then the tensors in its order.

The header is complete before the first weight is known, because shapes and formats are; the file is on disk
when `finish` returns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from forge import durable
from forge.errors import MergeError
from forge.header import ITEM_BYTES
from forge.merge.blocks import Array, over_blocks, pool
from forge.merge.codec import STORED, encode

Shape = tuple[str, str, tuple[int, ...]]
"""Name, format and shape of a tensor."""


def header(tensors: Sequence[Shape]) -> bytes:
    """The beginning of a file of these tensors; a multiple of 8 bytes, so that tensors can be mapped."""
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape in tensors:
        end = position + ITEM_BYTES[dtype] * int(np.prod(shape, dtype=np.int64))
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class TensorWriter:
    """A file that grows by one tensor at a time."""

    def __init__(self, path: Path, tensors: Sequence[Shape]) -> None:
        self._path = path
        self._awaited = list(reversed(tensors))
        self._hash = hashlib.sha256()
        self._descriptor = durable.create(path, exclusive=True)
        self.bytes = 0
        self.write_bytes(memoryview(header(tensors)))

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, name: str, parts: Iterable[Array]) -> None:
        """Append the next tensor, given in parts, rounded to its format.

        Raises:
            MergeError: a value is NaN or infinite, or too large for the format.
        """
        expected = ITEM_BYTES[self._awaited[-1][1]] * int(np.prod(self._awaited[-1][2], dtype=np.int64))
        dtype, before = self.begin(name), self.bytes
        for values in parts:
            self._append(name, values.reshape(-1), dtype)
        if self.bytes - before != expected:
            raise ValueError(f"{name} has {self.bytes - before} bytes where the header has {expected}")

    def _append(self, name: str, flat: Array, dtype: str) -> None:
        stored: npt.NDArray[Any] = flat if dtype == "F32" else np.empty(flat.size, STORED[dtype])

        def encode_block(block: slice) -> bool:
            encoded, finite = encode(flat[block], dtype)
            if stored is not flat:
                stored[block] = encoded
            return finite

        if not all(over_blocks(flat.size, encode_block)):
            raise MergeError(
                f"{name}: the merged values are not finite in {dtype}; use smaller weights or dtype: float32"
            )
        if flat.size:
            self.write_bytes(stored.data.cast("B"))

    def begin(self, name: str) -> str:
        """The format of the tensor that is written next, which must be the one announced."""
        expected, dtype, _ = self._awaited.pop()
        if name != expected:
            raise ValueError(f"{name} is written where the header has {expected}")
        return dtype

    def write_bytes(self, data: memoryview) -> None:
        """Append bytes as they are."""
        # The hash of what is being written takes another core meanwhile.
        hashed: Future[None] = pool().submit(self._hash.update, data)
        try:
            durable.write(self._descriptor, data)
        except OSError as error:
            # The kernel does not say which file it was about.
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        finally:
            hashed.result()
        self.bytes += len(data)

    def finish(self) -> str:
        """Make the file durable; its SHA-256."""
        if self._awaited:
            raise ValueError(f"{self._awaited[-1][0]} is in the header but was never written")
        durable.sync(self._descriptor)
        return self._hash.hexdigest()
