"""Writes a decoder as the folder that `load_decoder` reads."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from forge.models.decoder import Decoder
from forge.models.io import CONFIG_FILE, WEIGHTS_FILE


def save_decoder(model: Decoder, directory: Path) -> None:
    """Weights in full precision and the configuration, into an existing folder."""
    (directory / CONFIG_FILE).write_text(model.config.model_dump_json(indent=2), "utf-8")
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, directory / WEIGHTS_FILE, {"format": "pt"})
