"""Pico models on disk, well-formed ones and others, and the methods once more in plain float64."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from forge.merge import Group
from forge.merge.blocks import Array

Wide = npt.NDArray[np.float64]
Tensors = dict[str, Array]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 20,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
}


def drawn(seed: int, shape: tuple[int, ...] = (6, 50), scale: float = 1.0) -> Array:
    """A tensor of normal numbers."""
    return np.float32(scale) * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def group(*tensors: Array, base: Array | None = None, name: str = "w", seed: int = 0) -> Group:
    """What a method is given."""
    return Group(name, tensors, base, seed)


def pico(seed: int, layers: int = 3) -> Tensors:
    """Weights of a Llama of three layers; the seed 0 is the base of the others."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (20, 8), "model.norm.weight": (8,)}
    for layer in range(layers):
        within: dict[str, tuple[int, ...]] = {
            "input_layernorm": (8,),
            "post_attention_layernorm": (8,),
            "mlp.gate_proj": (12, 8),
            "mlp.up_proj": (12, 8),
            "mlp.down_proj": (8, 12),
        }
        within |= {f"self_attn.{name}_proj": (8, 8) for name in "qkvo"}
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in within.items()}
    base = {name: drawn(number, shape) for number, (name, shape) in enumerate(shapes.items())}
    if seed == 0:
        return base
    return {
        name: value + drawn(1000 * seed + i, value.shape, 0.1) for i, (name, value) in enumerate(base.items())
    }


def write_model(folder: Path, tensors: Mapping[str, npt.NDArray[Any]], **config: Any) -> Path:
    """A Hugging Face folder of one file; `config` changes keys of its configuration."""
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}), "utf-8")
    return folder


def write_raw(path: Path, header: Any, data: bytes = b"") -> Path:
    """A safetensors file of any header, a lie or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def read_model(folder: Path) -> Tensors:
    """The tensors of a folder, read by the reference library."""
    return dict(load_file(folder / "model.safetensors"))


def wide(tensors: Sequence[Array], base: Array) -> list[Wide]:
    """Differences to a base."""
    return [tensor.astype(np.float64) - base.astype(np.float64) for tensor in tensors]


def largest(delta: Wide, count: int) -> npt.NDArray[np.bool_]:
    """Marks the `count` largest entries by magnitude, found by sorting."""
    order = np.argsort(-np.abs(delta), axis=None, kind="stable")
    mask = np.zeros(delta.size, bool)
    mask[order[:count]] = True
    return mask.reshape(delta.shape)


def elect(weighted: Sequence[Wide], weights: Sequence[float], normalize: bool) -> Wide:
    """TIES' second half, entry by entry: the sign of the sum, and the mean of those that have it."""
    result = np.zeros_like(weighted[0])
    for place in np.ndindex(result.shape):
        values = [value[place] for value in weighted]
        sign = 1.0 if sum(values) >= 0 else -1.0
        agreeing = [(value, w) for value, w in zip(values, weights, strict=True) if value * sign > 0]
        share = sum(w for _, w in agreeing) or 1.0
        result[place] = sum(value for value, _ in agreeing) / (share if normalize else 1.0)
    return result


def plain_slerp(a: Wide, b: Wide, t: float) -> Wide:
    """Shoemake's formula over whole tensors."""
    cosine = float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    if abs(cosine) > 0.9995:
        return np.asarray((1 - t) * a + t * b)
    angle = np.arccos(cosine)
    return np.asarray((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))


def plain_multislerp(vectors: Sequence[Wide], weights: Sequence[float]) -> Wide:
    """Goddard's three steps as they are defined: mean direction, tangents there, exponential map."""
    shares = [weight / sum(weights) for weight in weights]
    lengths = [float(np.linalg.norm(vector)) for vector in vectors]
    units = [vector / length for vector, length in zip(vectors, lengths, strict=True)]
    mean = np.sum([share * unit for share, unit in zip(shares, units, strict=True)], axis=0)
    mean /= np.linalg.norm(mean)
    tangents = [unit - (unit * mean).sum() * mean for unit in units]
    tangent = np.sum([share * t for share, t in zip(shares, tangents, strict=True)], axis=0)
    angle = float(np.linalg.norm(tangent)) + 1e-300
    direction = mean * np.cos(angle) + tangent * (np.sin(angle) / angle)
    return np.asarray(direction * sum(s * of for s, of in zip(shares, lengths, strict=True)))
