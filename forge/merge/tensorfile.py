"""A safetensors file, read tensor by tensor: its header is checked before it is believed.

Nothing is allocated by what a file claims: lengths, offsets and shapes are compared with the size of the
file first. Reads are `pread` into memory of ours, so what is resident is what is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from forge.errors import MergeError
from forge.header import HeaderError, header_of, open_plain
from forge.merge.blocks import Array, over_blocks
from forge.merge.codec import STORED, decode

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
            self._descriptor = open_plain(path)
            try:
                self.stamp = self._stamp()
                self.entries = header_of(self._descriptor)
            except BaseException:
                self.close()
                raise
        except HeaderError as error:
            raise MergeError(f"{path}: {error}") from error
        except OSError as error:
            raise MergeError(f"{path}: {error.strerror}") from error

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)

    def changed(self) -> bool:
        """Whether somebody wrote to the file since it was opened."""
        return self._stamp() != self.stamp

    def read_into(self, name: str, out: Array, first: int = 0) -> None:
        """Fill `out` (flat) with a tensor's values as float32, from its element `first` on.

        Raises:
            MergeError: the file ends early, or a value is NaN or infinite.
        """
        entry = self.entries[name]
        stored = STORED[entry.dtype]

        def read_block(block: slice) -> bool:
            target = out[block]
            raw = target if entry.dtype == "F32" else np.empty(target.size, stored)
            self._fill(raw.data.cast("B"), entry.start + (first + block.start) * stored.itemsize)
            return decode(raw, entry.dtype, target)

        if not all(over_blocks(out.size, read_block)):
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
