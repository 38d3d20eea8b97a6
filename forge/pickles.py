"""Pickles, which Forge refuses to read: to unpickle a file is to run whatever program its maker put in it.

They are known by their first bytes, whatever they are called, and by the names that PyTorch gives them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})
_USUAL = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "consolidated.00.pth",
    "model.pt",
    "model.ckpt",
)
_ZIP = b"PK\x03\x04"
_PROTOCOLS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_LONGEST_HEADER = 1 << 23
"""A safetensors file begins with the length of its header, which may by chance look like a protocol."""


def is_pickle(start: bytes) -> bool:
    """Whether a file whose first eight bytes these are is a pickle, or a zip as `torch.save` writes it."""
    return start.startswith(_ZIP) or (start.startswith(_PROTOCOLS) and not _may_be_length(start))


def pickle_at(path: Path) -> str | None:
    """Why a path that was given as a model cannot be read, where it is a pickle; none where it is not.

    Of a folder: where its weights are there as pickles only.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            found = next((path / name for name in _USUAL if (path / name).is_file()), None)
            whole = (path / "model.safetensors").exists() or (path / "model.safetensors.index.json").exists()
            return None if found is None or whole else f"{found}: {refusal()}"
        if not stat.S_ISREG(kind):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            start = os.read(descriptor, 8)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None
    named_so = path.suffix.lower() in SUFFIXES and not (len(start) == 8 and _may_be_length(start))
    return f"{path}: {refusal()}" if named_so or is_pickle(start) else None


def refusal() -> str:
    """What it is, why it is not read, and what to do."""
    return (
        "this is a pickle, as torch.save writes it, and reading one can run any program hidden in it; Forge "
        "reads safetensors only. Ask its maker for model.safetensors, or convert it where you trust it: "
        "torch.load(FILE, weights_only=True), then safetensors.torch.save_file(TENSORS, "
        '"model.safetensors").'
    )


def _may_be_length(start: bytes) -> bool:
    return int.from_bytes(start[:8], "little") <= _LONGEST_HEADER
