"""A decoder as a folder: `model.safetensors` beside `config.json`.

The head is the embedding table, so it is written once. Loading checks every name and shape against the
configuration before a weight is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from forge.config import ModelConfig
from forge.errors import CheckpointError, NotFoundError
from forge.header import HeaderError, read_header
from forge.models.decoder import Decoder
from forge.reading import read_plain

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MAX_JSON = 1 << 24
"""Bytes of a configuration or a card."""


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: truncated, not safetensors, or names and shapes of another model.
    """
    require_fit(path, {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})
    try:
        tensors = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({error})") from error
    module.load_state_dict(tensors)


def require_fit(path: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the header of a weights file with the names and shapes that are expected; reads nothing else.

    Raises:
        NotFoundError, CheckpointError: as `load_weights`.
    """
    problems = _mismatches(expected, _shapes(path))
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise CheckpointError(f"{path}: weights of another model: {shown}")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        return {name: entry.shape for name, entry in read_header(path).items()}
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such weights file") from error
    except HeaderError as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error


def load_decoder(directory: Path, device: torch.device) -> Decoder:
    """The decoder of a folder; see `load_weights` for the errors."""
    path = directory / CONFIG_FILE
    try:
        config = ModelConfig.model_validate_json(read_plain(path, MAX_JSON))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file, so {directory} is not a model of Forge's") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "(top)"
        raise CheckpointError(f"{path}: not a model configuration: {place}: {first['msg']}") from error
    weights = directory / WEIGHTS_FILE
    try:
        # A configuration may claim any size: the one that the weights have is compared with it first.
        if config.n_layers > (tensors := len(_shapes(weights))):
            raise CheckpointError(
                f"{weights}: weights of another model: {tensors} tensors for {config.n_layers} layers"
            )
        require_fit(weights, decoder_shapes(config))
        model = Decoder(config)
    except (RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path}: a model of this size finds no memory here ({error})") from error
    load_weights(model, weights)
    return model.to(device)


def decoder_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a decoder's weights, without memory for any of them."""
    with torch.device("meta"):
        # Without positions: their table is no weight, and is as long as the configuration says.
        shell = Decoder(config.model_copy(update={"max_seq_len": 8, "window": None}))
    return {name: tuple(tensor.shape) for name, tensor in shell.state_dict().items()}


def _mismatches(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        want, have = expected[name], found[name]
        if want != have:
            problems.append(f"{name} is {have}, expected {want}")
    return sorted(problems)
