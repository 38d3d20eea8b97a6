"""A decoder as a folder: `model.safetensors` beside `config.json`.

The head is the embedding table, so it is written once. Loading checks every name and shape against the
configuration before a weight is touched.
"""

from __future__ import annotations

from pathlib import Path

import safetensors
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from forge import durable
from forge.config import ModelConfig
from forge.errors import CheckpointError, NotFoundError
from forge.models.decoder import Decoder

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's parameters, in full precision and durably."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    durable.write_file(path, save(tensors, metadata={"format": "pt"}))
    durable.sync_folder(path.parent)


def save_decoder(model: Decoder, directory: Path) -> None:
    """Write `model.safetensors` and `config.json` into an existing folder."""
    durable.replace_file(directory / CONFIG_FILE, model.config.model_dump_json(indent=2).encode())
    save_weights(model, directory / WEIGHTS_FILE)


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file.

    Raises:
        NotFoundError: there is no such file.
        CheckpointError: truncated, not safetensors, or names and shapes of another model.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such weights file")
    try:
        tensors = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({error})") from error
    problems = _mismatches(module.state_dict(), tensors)
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise CheckpointError(f"{path}: weights of another model: {shown}")
    module.load_state_dict(tensors)


def load_decoder(directory: Path, device: torch.device) -> Decoder:
    """The decoder that `save_decoder` wrote; see `load_weights` for the errors."""
    path = directory / CONFIG_FILE
    try:
        config = ModelConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file, so {directory} is not a model of Forge's") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "(top)"
        raise CheckpointError(f"{path}: not a model configuration: {place}: {first['msg']}") from error
    model = Decoder(config)
    load_weights(model, directory / WEIGHTS_FILE)
    return model.to(device)


def _mismatches(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    problems = [f"{name} is missing" for name in expected.keys() - found.keys()]
    problems += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        want, have = tuple(expected[name].shape), tuple(found[name].shape)
        if want != have:
            problems.append(f"{name} is {have}, expected {want}")
    return sorted(problems)
