"""A nested state survives the way through JSON and safetensors unchanged."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forge.engine.tree import flatten, unflatten
from forge.errors import CheckpointError

DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip


def through(state: Any) -> Any:
    """What comes back after the state was text and bytes."""
    tree, tensors = flatten(state)
    text = json.dumps(tree, allow_nan=False)
    return unflatten(json.loads(text), safetensors.torch.load(safetensors.torch.save(tensors)))


def same(a: Any, b: Any) -> bool:
    """Equal in value and type, tensors bit for bit, NaN equal to NaN, -0.0 not equal to 0.0."""
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        left, right = a.detach().contiguous(), b.detach().contiguous()
        return torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))
    if isinstance(a, dict):
        return (
            isinstance(b, dict)
            and list(map(repr, a)) == list(map(repr, b))
            and all(same(x, y) for x, y in zip(a.values(), b.values(), strict=True))
        )
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return type(a) is type(b) and bool(a == b)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    values = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    tensor = values.to(dtype)
    if dtype.is_floating_point and tensor.numel():
        tensor.reshape(-1)[0] = draw(st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e-40]))
    if draw(st.booleans()) and tensor.dim() > 1:
        tensor = tensor.transpose(0, -1)
    return tensor


keys = st.text(max_size=4) | st.sampled_from(["$tensor", "$", "a/b", "a", "b", "__metadata__", "\ud800"])
odd_keys = keys | st.integers(-3, 3) | st.none() | st.tuples(st.integers(0, 2), st.text(max_size=1))
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just("\ud800")
    | tensors()
)
states = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(odd_keys, inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(state=states)
def test_whatever_goes_in_comes_out(state: Any) -> None:
    assert same(through(state), state)


def test_places_that_are_written_alike_stay_apart() -> None:
    one, two, three = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0])
    state = {"a/b": one, "a": {"b": two}, "n": {1: three, "1": one}, "__metadata__": two}
    back = through(state)
    assert same(back, state)
    assert list(flatten(state)[1]) == ["a/b", "a/b'", "n/1", "n/1'", "__metadata__'"]


def test_tensors_that_share_memory_are_kept_as_two() -> None:
    base = torch.arange(12.0)
    state = {"whole": base, "again": base, "part": base[3:6], "turned": base.view(3, 4).t()}
    back = through(state)
    assert same(back, state)
    back["again"][0] = -1
    assert back["whole"][0] == 0


def test_parameters_and_mappings_come_back_plain() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    back = through(OrderedDict(weight=weight))
    assert type(back) is dict
    assert torch.equal(back["weight"], weight)
    assert not back["weight"].requires_grad


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize("stranger", [object(), {1, 2}, b"bytes", 1j, Pair(1, 2)])
def test_what_could_not_come_back_equal_is_refused_with_its_place(stranger: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{type(stranger).__name__} at state/list/1"):
        flatten({"state": {"list": [0, stranger]}})


@pytest.mark.parametrize(
    "tree", [{"$tensor": "gone"}, {"$tensor": 5}, [{"$tuple": [{"$items": [["k", {"$tensor": "gone"}]]}]}]]
)
def test_a_reference_to_a_tensor_that_is_not_there_is_refused(tree: Any) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        unflatten(tree, {"here": torch.zeros(1)})
