"""Formats of weights: rounded as torch rounds them, and nothing that is not finite goes in or out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forge.merge.codec import STORED, decode, encode, promote
from tests.unit.merge.rig import drawn

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def awkward() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Numbers of every size, halfway cases and subnormal ones among them."""
    bits = np.random.default_rng(0).integers(0, 0x47700000, 20_000, dtype=np.uint32)
    bits[:4000] = (bits[:4000] & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    bits[::2] |= np.uint32(0x80000000)
    return np.concatenate([bits.view(np.float32), drawn(0, (1000,)), np.zeros(1, np.float32)])


@pytest.mark.parametrize("dtype", STORED)
def test_rounding_is_torchs(dtype: str) -> None:
    values = awkward()
    encoded, finite = encode(values, dtype)
    assert finite
    expected = torch.from_numpy(values).to(TORCH[dtype])
    assert encoded.tobytes() == expected.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", STORED)
def test_reading_is_exact(dtype: str) -> None:
    stored = torch.from_numpy(awkward()).to(TORCH[dtype])
    raw = np.frombuffer(stored.view(torch.uint8).numpy().tobytes(), STORED[dtype])
    out = np.empty(raw.size, np.float32)
    assert decode(raw, dtype, out)
    np.testing.assert_array_equal(out, stored.float().numpy())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", STORED)
def test_what_is_not_finite_is_found(dtype: str, bad: float) -> None:
    values = drawn(0, (33,))
    values[17] = bad
    assert not encode(values, dtype)[1]
    stored = torch.from_numpy(values).to(TORCH[dtype])
    raw = np.frombuffer(stored.view(torch.uint8).numpy().tobytes(), STORED[dtype])
    assert not decode(raw, dtype, np.empty(33, np.float32))


@pytest.mark.parametrize(("dtype", "large"), [("F16", 65_520.0), ("BF16", 3.4e38)])
def test_what_is_too_large_for_a_format_is_found(dtype: str, large: float) -> None:
    assert not encode(np.array([1.0, large], np.float32), dtype)[1]


def test_formats_are_promoted_to_one_that_holds_both() -> None:
    assert promote({"BF16"}) == "BF16"
    assert promote({"BF16", "F16"}) == "F32"
