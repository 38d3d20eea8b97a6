"""Number formats of weights: stored bytes to float32 and back, one block at a time.

Every value passes here, so here is where one that is not finite is found, on the way in and on the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from forge.merge.blocks import Array

STORED: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
)
"""Formats that are merged, and how numpy holds their bytes; it has no bfloat16, so those are its bits."""

EXACT = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"})
"""Formats of buffers and not of weights: never computed with, only copied."""

NAMES: Mapping[str, str] = MappingProxyType(
    {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "fp32": "F32", "fp16": "F16", "bf16": "BF16"}
)
"""What a recipe calls them."""
TORCH_NAMES: Mapping[str, str] = MappingProxyType({"F32": "float32", "F16": "float16", "BF16": "bfloat16"})


def promote(dtypes: set[str]) -> str:
    """The narrowest format that holds all of them exactly."""
    return next(iter(dtypes)) if len(dtypes) == 1 else "F32"


def decode(stored: npt.NDArray[Any], dtype: str, out: Array) -> bool:
    """Turn stored values into float32; whether all are finite."""
    if dtype == "BF16":
        np.left_shift(stored, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)
    elif stored is not out:
        np.copyto(out, stored)
    return bool(np.isfinite(out).all())


def encode(values: Array, dtype: str) -> tuple[npt.NDArray[Any], bool]:
    """Round float32 to a stored format, to the nearest and ties to even; whether all are finite there."""
    if dtype == "F32":
        return values, bool(np.isfinite(values).all())
    if dtype == "F16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        return half, bool(np.isfinite(half).all())
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    )
    finite = bool(np.isfinite(values).all()) and not bool(((rounded & 0x7F80) == 0x7F80).any())
    return rounded, finite
