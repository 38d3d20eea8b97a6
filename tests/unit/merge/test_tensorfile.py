"""A safetensors file is believed as far as it agrees with itself; nothing is allocated by its word alone."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge.errors import MergeError
from forge.header import MAX_HEADER
from forge.merge.tensorfile import TensorFile
from forge.merge.writer import header
from tests.unit.merge.rig import drawn, write_model, write_raw


def tensor(begin: int, end: int, shape: Any = (2,), dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


GOOD = {"a": tensor(0, 8), "b": tensor(8, 16)}

HOSTILE: dict[str, tuple[Any, bytes, str]] = {
    "no JSON": (b"\xff\xfe{", b"", "cannot be read"),
    "cut JSON": (b'{"a": ', b"", "cannot be read"),
    "deep JSON": (b"[" * 200_000, b"", "cannot be read"),
    "long number": (b'{"a": ' + b"9" * 10_000 + b"}", b"", "cannot be read"),
    "NaN": (b'{"a": NaN}', b"", "cannot be read"),
    "a key twice": (b'{"a": 1, "a": 2}', b"", "twice"),
    "a list": ([], b"", "not an object"),
    "odd metadata": ({"__metadata__": 3}, b"", "__metadata__"),
    "no object": ({"a": 3}, b"", "a needs dtype"),
    "an extra field": ({"a": tensor(0, 8, extra=1)}, bytes(8), "a needs dtype"),
    "unknown dtype": ({"a": tensor(0, 8, dtype="F33")}, bytes(8), "a has the unknown dtype 'F33'"),
    "dtype of another type": ({"a": tensor(0, 8, dtype=["F32"])}, bytes(8), "unknown dtype"),
    "negative size": ({"a": tensor(0, 8, shape=[-2])}, bytes(8), "a has the shape"),
    "size of another type": ({"a": tensor(0, 8, shape=[2.0])}, bytes(8), "a has the shape"),
    "true as a size": ({"a": tensor(0, 4, shape=[True])}, bytes(4), "a has the shape"),
    "immense size": ({"a": tensor(0, 8, shape=[1 << 61, 1 << 61])}, bytes(8), "does not fill"),
    "many dimensions": ({"a": tensor(0, 8, shape=[1] * 100)}, bytes(8), "a has the shape"),
    "negative offset": ({"a": tensor(-8, 0)}, bytes(8), "a has the data_offsets"),
    "offsets in reverse": ({"a": tensor(8, 0)}, bytes(8), "a has the data_offsets"),
    "three offsets": ({"a": {**tensor(0, 8), "data_offsets": [0, 4, 8]}}, bytes(8), "a has the data_offsets"),
    "beyond the end": ({"a": tensor(0, 8)}, bytes(4), "cut off"),
    "rest at the end": ({"a": tensor(0, 8)}, bytes(12), "cut off"),
    "overlap": ({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12), "b overlaps"),
    "the same place": ({"a": tensor(0, 8), "b": tensor(0, 8)}, bytes(8), "overlaps"),
    "a hole": ({"a": tensor(0, 8), "b": tensor(12, 20)}, bytes(20), "b leaves a hole"),
    "too few bytes for the shape": ({"a": tensor(0, 4)}, bytes(4), "does not fill"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused(case: str, tmp_path: Path) -> None:
    document, data, message = HOSTILE[case]
    path = write_raw(tmp_path / "x.safetensors", document, data)
    with pytest.raises(MergeError, match=message) as raised:
        TensorFile(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 400


def test_an_honest_header_is_read(tmp_path: Path) -> None:
    file = TensorFile(write_raw(tmp_path / "x.safetensors", GOOD, bytes(16)))
    assert {name: (e.shape, e.nbytes) for name, e in file.entries.items()} == {"a": ((2,), 8), "b": ((2,), 8)}
    file.close()


@pytest.mark.parametrize("length", [3, 16, MAX_HEADER + 1, 2**40, 2**64 - 1])
def test_a_header_length_is_checked_before_memory_is_taken(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little")[: 8 if length > 3 else 3] + b"{}")
    tracemalloc.start()
    with pytest.raises(MergeError, match=r"too short|header of \d+ bytes"):
        TensorFile(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_shape_is_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.safetensors", {"a": tensor(0, 1 << 40, shape=[1 << 38])}, bytes(16))
    tracemalloc.start()
    with pytest.raises(MergeError, match="cut off"):
        TensorFile(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_one_wrong_byte_is_refused_or_harmless(place: int, value: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    data = bytearray(header([("a", "F32", (2, 3)), ("b", "BF16", (4,)), ("c", "I64", (1,))]) + bytes(40))
    data[place % len(data)] = value
    path.write_bytes(data)
    try:
        file = TensorFile(path)
    except MergeError:
        return
    assert sum(entry.nbytes for entry in file.entries.values()) == 40
    file.close()


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(MergeError, match=r"x\.safetensors: (not a regular file|No such file)"):
        TensorFile(path)


def test_reading_fills_what_is_given(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "a": drawn(0, (30, 11)),
        "b": drawn(1, (5,)).astype(np.float16),
    }
    file = TensorFile(write_model(tmp_path / "m", tensors) / "model.safetensors")
    for name, values in tensors.items():
        out = np.empty(values.size, np.float32)
        file.read_into(name, out)
        np.testing.assert_array_equal(out.reshape(values.shape), values.astype(np.float32))
        assert b"".join(bytes(piece) for piece in file.pieces(name)) == values.tobytes()
    file.close()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(bad: float, tmp_path: Path) -> None:
    values = drawn(0, (30, 11))
    values[29, 10] = bad
    file = TensorFile(write_model(tmp_path / "m", {"layer.w": values}) / "model.safetensors")
    with pytest.raises(MergeError, match=r"m/model.safetensors: layer\.w holds NaN or infinite"):
        file.read_into("layer.w", np.empty(330, np.float32))
    file.close()


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m", {"w": drawn(0, (30, 11))}) / "model.safetensors"
    file = TensorFile(path)
    os.truncate(path, 200)
    assert file.changed()
    with pytest.raises(MergeError, match="became shorter"):
        file.read_into("w", np.empty(330, np.float32))
    file.close()
