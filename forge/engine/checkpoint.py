"""Checkpoints: everything needed to continue a phase run exactly where it stood.

A checkpoint is valid only if its manifest landed: files first, each fsynced, then the manifest with their
sizes and hashes, then one rename. Loading skips what is not valid and falls back to the one before.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulid import ULID

from forge import durable
from forge.engine.tree import flatten, unflatten
from forge.errors import CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8})\Z")
_MODEL_PREFIX = "state/model/"
_MAX_JSON = 1 << 28


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back."""

    path: Path
    step: int
    state: dict[str, Any]
    """`state`: what the phase gave; `generators`, `runtime`: what the engine added."""
    last_steps: dict[str, int]
    """Last step of each metric series at that moment."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint just written."""

    path: Path
    step: int
    bytes: int


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Steps that have a checkpoint folder, newest first, valid or not."""
    if not folder.is_dir():
        return []
    found = [match for entry in folder.iterdir() if (match := _NAME.match(entry.name))]
    return sorted((int(match[1]) for match in found), reverse=True)


def save(folder: Path, step: int, state: dict[str, Any], last_steps: Mapping[str, int]) -> Saved:
    """Write a checkpoint; when this returns it survives a power cut.

    Raises:
        OSError: the disk is full or failed; what was there before is untouched.
    """
    import safetensors.torch

    durable.make_folder(folder)
    temporary = folder / f"step-{step:08d}.tmp-{ULID()}"
    temporary.mkdir(mode=0o700)
    tree, tensors = flatten(state)
    tensors = {name.removeprefix("/"): tensor for name, tensor in tensors.items()}
    model = {n.removeprefix(_MODEL_PREFIX): t for n, t in tensors.items() if n.startswith(_MODEL_PREFIX)}
    rest = {n: t for n, t in tensors.items() if not n.startswith(_MODEL_PREFIX)}
    contents = {
        "model.safetensors": safetensors.torch.save(model),
        "optimizer.safetensors": safetensors.torch.save(rest),
        "state.json": json.dumps({"format": FORMAT, "step": step, "tree": tree}, allow_nan=False).encode(),
    }
    try:
        files = {}
        for name, data in contents.items():
            durable.write_file(temporary / name, data)
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest = {"format": FORMAT, "step": step, "files": files, "last_steps": dict(last_steps)}
        durable.write_file(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        durable.sync_folder(temporary)
        final = step_folder(folder, step)
        if final.exists():
            # A damaged one of the same step; it was set aside by name only when loading skipped it.
            durable.move(final, folder / f"damaged-{step:08d}-{ULID()}")
        durable.move(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Saved(final, step, sum(len(data) for data in contents.values()))


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        CheckpointError: anything about it is missing, cut short or altered.
    """
    import safetensors.torch

    manifest = _read_json(path / MANIFEST)
    try:
        contents = {name: _read_verified(path / name, entry) for name, entry in manifest["files"].items()}
        document = json.loads(contents["state.json"])
        tensors = dict(safetensors.torch.load(contents["optimizer.safetensors"]))
        model = safetensors.torch.load(contents["model.safetensors"])
        tensors.update({_MODEL_PREFIX + name: tensor for name, tensor in model.items()})
        state = unflatten(document["tree"], {f"/{name}": tensor for name, tensor in tensors.items()})
        last_steps = {str(k): int(v) for k, v in manifest["last_steps"].items()}
        return Checkpoint(path, int(document["step"]), state, last_steps)
    except (KeyError, TypeError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_latest(folder: Path, on_damaged: Callable[[int, str], None]) -> Checkpoint | None:
    """The newest valid checkpoint, or none; `on_damaged(step, reason)` hears of each one skipped."""
    for step in steps_in(folder):
        try:
            return load(step_folder(folder, step))
        except CheckpointError as error:
            on_damaged(step, str(error))
    return None


def remove_leftovers(folder: Path) -> int:
    """Delete half-written checkpoints of a killed process (lease holder only); returns how many."""
    if not folder.is_dir():
        return 0
    leftovers = [entry for entry in folder.iterdir() if ".tmp-" in entry.name]
    for entry in leftovers:
        durable.remove_tree(entry)
    return len(leftovers)


def rotate(folder: Path, keep: int) -> list[int]:
    """Delete all but the newest `keep` (at least two) checkpoints; returns the steps deleted."""
    gone = steps_in(folder)[max(2, keep) :]
    for step in gone:
        path = step_folder(folder, step)
        # Without its manifest it is no checkpoint any more: a crash half way leaves nothing that looks valid.
        (path / MANIFEST).unlink(missing_ok=True)
        durable.remove_tree(path)
    return gone


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CheckpointError(f"{path} is larger than any manifest")
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error})") from error


def _read_verified(path: Path, entry: Mapping[str, Any]) -> bytes:
    if path.parent.name == "" or "/" in path.name:
        raise CheckpointError(f"{path}: not a plain file name")
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"{path} has {size} bytes, its manifest says {entry['bytes']}")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{path} does not have the hash that its manifest says")
    return data
