"""A safetensors file, read tensor by tensor: its header is checked before it is believed.

Nothing is allocated by what a file claims: lengths, offsets and shapes are compared with the size of the
file first. Reads are `pread` into memory of ours, so what is resident is what is used.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from forge.errors import MergeError
from forge.merge.blocks import Array, over_blocks
from forge.merge.codec import ITEM_BYTES, STORED, Entry, decode

MAX_HEADER = 1 << 25
"""Bytes; a model of ten thousand tensors needs about one million."""
_PIECE = 1 << 20


class TensorFile:
    """An open safetensors file and where its tensors lie."""

    def __init__(self, path: Path) -> None:
        """Open `path` and check its header.

        Raises:
            MergeError: not a regular file, not safetensors, or a header that contradicts itself or the file.
        """
        self.path = path
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise MergeError(f"{path}: not a regular file")
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MergeError(f"{path}: {error.strerror}") from error
        try:
            self.stamp = self._stamp()
            self.entries = _parse_header(path, *self._read_header())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)

    def changed(self) -> bool:
        """Whether somebody wrote to the file since it was opened."""
        return self._stamp() != self.stamp

    def read_into(self, name: str, out: Array) -> None:
        """Fill `out` (flat) with a tensor's values as float32.

        Raises:
            MergeError: the file ends early, or a value is NaN or infinite.
        """
        entry = self.entries[name]
        stored = STORED[entry.dtype]

        def read_block(block: slice) -> bool:
            target = out[block]
            raw = target if entry.dtype == "F32" else np.empty(target.size, stored)
            self._fill(raw.data.cast("B"), entry.start + block.start * stored.itemsize)
            return decode(raw, entry.dtype, target)

        if not all(over_blocks(entry.size, read_block)):
            raise MergeError(
                f"{self.path}: {name} holds NaN or infinite values, so this model cannot be merged"
            )

    def pieces(self, name: str) -> Iterator[memoryview]:
        """A tensor as it is stored, piece by piece; each piece is valid until the next."""
        entry = self.entries[name]
        buffer = memoryview(bytearray(min(_PIECE, entry.nbytes)))
        for start in range(0, entry.nbytes, _PIECE):
            piece = buffer[: min(_PIECE, entry.nbytes - start)]
            self._fill(piece, entry.start + start)
            yield piece

    def same_bytes(self, name: str, other: TensorFile, other_name: str) -> bool:
        """Whether a tensor is stored exactly as one of another file, or of this one."""
        a, b = self.entries[name], other.entries[other_name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        left, right = memoryview(bytearray(_PIECE)), memoryview(bytearray(_PIECE))
        for start in range(0, a.nbytes, _PIECE):
            length = min(_PIECE, a.nbytes - start)
            self._fill(left[:length], a.start + start)
            other._fill(right[:length], b.start + start)
            if left[:length] != right[:length]:
                return False
        return True

    def _fill(self, view: memoryview, position: int) -> None:
        while view:
            count = os.preadv(self._descriptor, [view], position)
            if count == 0:
                raise MergeError(f"{self.path}: the file became shorter while it was read")
            view, position = view[count:], position + count

    def _stamp(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    def _read_header(self) -> tuple[bytes, int]:
        size = self.stamp[0]
        if size < 8:
            raise MergeError(f"{self.path}: {size} bytes, too short for a safetensors file")
        prefix = bytearray(8)
        self._fill(memoryview(prefix), 0)
        length = int.from_bytes(prefix, "little")
        if length > min(size - 8, MAX_HEADER):
            limit = f"the limit is {MAX_HEADER}" if length > MAX_HEADER else f"the file has {size} in all"
            raise MergeError(f"{self.path}: not a safetensors file: a header of {length} bytes, {limit}")
        header = bytearray(length)
        self._fill(memoryview(header), 8)
        return bytes(header), size


def _parse_header(path: Path, header: bytes, size: int) -> dict[str, Entry]:
    try:
        document = json.loads(header.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MergeError(f"{path}: the safetensors header cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise MergeError(f"{path}: the safetensors header is not an object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise MergeError(f"{path}: __metadata__ of the safetensors header is not an object")
    data = 8 + len(header)
    entries = {name: _entry(path, name, fields, data) for name, fields in document.items()}
    end = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if entry.start != end:
            fault = "overlaps the tensor before it" if entry.start < end else "leaves a hole before it"
            raise MergeError(f"{path}: {name} {fault}: it begins at byte {entry.start}, expected {end}")
        end = entry.start + entry.nbytes
    if end != size:
        raise MergeError(
            f"{path}: the tensors end at byte {end}, the file at {size}: it is cut off or not safetensors"
        )
    return entries


def _entry(path: Path, name: str, fields: Any, data: int) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise MergeError(f"{path}: {name} needs dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise MergeError(f"{path}: {name} has the unknown dtype {dtype!r:.40}")
    if not _counts(shape) or len(shape) > 32:
        raise MergeError(f"{path}: {name} has the shape {shape!r:.80}, expected a few whole numbers")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise MergeError(f"{path}: {name} has the data_offsets {offsets!r:.80}, expected begin and end")
    nbytes = offsets[1] - offsets[0]
    if math.prod(shape) * ITEM_BYTES[dtype] != nbytes:
        raise MergeError(f"{path}: {name} is {dtype} {shape!r:.80}, which does not fill its {nbytes} bytes")
    return Entry(dtype, tuple(shape), data + offsets[0], nbytes)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
