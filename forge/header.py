"""The header of a safetensors file: compared with itself and with the size of the file before it is believed.

Nothing is allocated by what a file claims. Whoever takes memory for tensors asks here first, and every reader
of weights does.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from forge.errors import ForgeError
from forge.pickles import is_pickle, refusal

MAX_HEADER = 1 << 25
"""Bytes; a model of ten thousand tensors needs about one million."""

ITEM_BYTES: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
        "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
        "U32": 4, "I32": 4, "F32": 4,
        "U64": 8, "I64": 8, "F64": 8, "C64": 8,
    }
)  # fmt: skip
"""Bytes of one element of each dtype of the safetensors format that has whole bytes."""


class HeaderError(ForgeError):
    """A file that is not safetensors, or contradicts itself; the reader says which file, and what to do."""


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Byte of the file, not of its data section."""
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def open_plain(path: Path) -> int:
    """A descriptor of a regular file, for reading.

    Raises:
        HeaderError: it is something else; opening it waits for nobody.
        OSError: it cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise HeaderError("not a regular file")
    # O_NONBLOCK: should a pipe have taken its place since, opening it must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HeaderError("not a regular file")
    return descriptor


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name.

    Raises:
        HeaderError: not a regular file, not safetensors, or a header that contradicts itself or the file.
        OSError: it cannot be read.
    """
    descriptor = open_plain(path)
    try:
        return header_of(descriptor)
    finally:
        os.close(descriptor)


def header_of(descriptor: int) -> dict[str, Entry]:
    """The tensors of an open file by name; see `read_header`."""
    size = os.fstat(descriptor).st_size
    start = _read(descriptor, min(size, 8), 0)
    if is_pickle(start):
        raise HeaderError(refusal())
    if size < 8:
        raise HeaderError(f"{size} bytes, too short for a safetensors file")
    length = int.from_bytes(start, "little")
    if length > min(size - 8, MAX_HEADER):
        limit = f"the limit is {MAX_HEADER}" if length > MAX_HEADER else f"the file has {size} in all"
        raise HeaderError(f"not a safetensors file: a header of {length} bytes, {limit}")
    return parse_header(_read(descriptor, length, 8), size)


def parse_header(header: bytes, size: int) -> dict[str, Entry]:
    """The tensors by name that a header describes, in a file of `size` bytes.

    Raises:
        HeaderError: it contradicts itself or the size.
    """
    try:
        document = json.loads(header.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"the safetensors header cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise HeaderError("the safetensors header is not an object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise HeaderError("__metadata__ of the safetensors header is not an object")
    data = 8 + len(header)
    entries = {name: _entry(name, fields, data) for name, fields in document.items()}
    end = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if entry.start != end:
            fault = "overlaps the tensor before it" if entry.start < end else "leaves a hole before it"
            raise HeaderError(f"{name!s:.80} {fault}: it begins at byte {entry.start}, expected {end}")
        end = entry.start + entry.nbytes
    if end != size:
        raise HeaderError(
            f"the tensors end at byte {end}, the file at {size}: it is cut off or not safetensors"
        )
    return entries


def _entry(name: str, fields: Any, data: int) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"{name:.80} needs dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise HeaderError(f"{name:.80} has the unknown dtype {dtype!r:.40}")
    if not _counts(shape) or len(shape) > 32:
        raise HeaderError(f"{name:.80} has the shape {shape!r:.80}, expected a few whole numbers")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderError(f"{name:.80} has the data_offsets {offsets!r:.80}, expected begin and end")
    nbytes = offsets[1] - offsets[0]
    if math.prod(shape) * ITEM_BYTES[dtype] != nbytes:
        raise HeaderError(f"{name:.80} is {dtype} {shape!r:.80}, which does not fill its {nbytes} bytes")
    return Entry(dtype, tuple(shape), data + offsets[0], nbytes)


def _read(descriptor: int, count: int, position: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = os.pread(descriptor, count - len(data), position + len(data))
        if not piece:
            raise HeaderError("the file became shorter while it was read")
        data += piece
    return bytes(data)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
