"""A nested state as JSON plus named tensors, and back: no pickle anywhere.

Whatever goes in comes out equal: tensors bit for bit, floats by their shortest exact decimal, integer keys
and tuples included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forge.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]


def flatten(value: Any, prefix: str = "") -> tuple[Any, Tensors]:
    """Split a nested state into JSON with references, and the tensors referred to."""
    import torch

    tensors: Tensors = {}

    def visit(node: Any, path: str) -> Any:
        if isinstance(node, torch.Tensor):
            tensors[path] = node.detach().contiguous()
            return {"$tensor": path}
        if isinstance(node, Mapping):
            if all(isinstance(k, str) and not k.startswith("$") for k in node):
                return {k: visit(v, f"{path}/{k}") for k, v in node.items()}
            return {"$items": [[visit(k, path), visit(v, f"{path}/{k}")] for k, v in node.items()]}
        if isinstance(node, tuple):
            return {"$tuple": [visit(v, f"{path}/{i}") for i, v in enumerate(node)]}
        if isinstance(node, list):
            return [visit(v, f"{path}/{i}") for i, v in enumerate(node)]
        if isinstance(node, float) and not math.isfinite(node):
            return {"$float": str(node)}
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise CheckpointError(
            f"a {type(node).__name__} at {path or 'the top'} cannot be kept in a checkpoint"
        )

    return visit(value, prefix), tensors


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
