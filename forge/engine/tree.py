"""A nested state as JSON plus named tensors, and back: no pickle anywhere.

Whatever goes in comes out equal: tensors bit for bit, floats by their shortest exact decimal, integer keys
and tuples included. What cannot come back equal is refused when it goes in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from forge.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]


def flatten(value: Any) -> tuple[Any, Tensors]:
    """Split a nested state into JSON with references, and the tensors referred to.

    Tensors are named by their place, `state/model/embedding.weight`; no two of them share memory.

    Raises:
        CheckpointError: something in it is neither tensor, number, text, list, tuple nor mapping.
    """
    import torch

    tensors: Tensors = {}
    storages: set[int] = set()

    def keep(tensor: Tensor, path: str) -> str:
        name = path.encode("utf-8", "backslashreplace").decode()
        # {"a/b": x} and {"a": {"b": y}} have one place; the last word is safetensors' own.
        while name in tensors or name.endswith("__metadata__"):
            name += "'"
        kept = tensor.detach().contiguous()
        storage = kept.untyped_storage().data_ptr()
        tensors[name] = kept.clone() if storage in storages else kept
        if storage:
            storages.add(storage)
        return name

    def visit(node: Any, path: str) -> Any:
        if isinstance(node, torch.Tensor):
            return {"$tensor": keep(node, path)}
        if isinstance(node, Mapping):
            if all(isinstance(k, str) and not k.startswith("$") for k in node):
                return {k: visit(v, _below(path, k)) for k, v in node.items()}
            return {"$items": [[visit(k, path), visit(v, _below(path, k))] for k, v in node.items()]}
        if type(node) is tuple:
            return {"$tuple": [visit(v, _below(path, i)) for i, v in enumerate(node)]}
        if isinstance(node, list):
            return [visit(v, _below(path, i)) for i, v in enumerate(node)]
        if isinstance(node, float) and not math.isfinite(node):
            return {"$float": str(float(node))}
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise CheckpointError(
            f"a {type(node).__name__} at {path or 'the top'} cannot be kept in a checkpoint"
        )

    return visit(value, ""), tensors


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nested state that `flatten` took apart.

    Raises:
        CheckpointError: a tensor that is referred to is missing.
    """
    if isinstance(value, list):
        return [unflatten(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        try:
            return tensors[value["$tensor"]]
        except KeyError as error:
            raise CheckpointError(f"the tensor {value['$tensor']} is missing") from error
    if "$items" in value:
        return {unflatten(k, tensors): unflatten(v, tensors) for k, v in value["$items"]}
    if "$tuple" in value:
        return tuple(unflatten(v, tensors) for v in value["$tuple"])
    if "$float" in value:
        return float(value["$float"])
    return {k: unflatten(v, tensors) for k, v in value.items()}


def references(value: Any) -> Iterator[str]:
    """Names of the tensors that `unflatten` needs."""
    if isinstance(value, dict) and "$tensor" in value:
        yield value["$tensor"]
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from references(item)


def _below(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)
