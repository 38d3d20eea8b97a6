"""Checkpoints: everything needed to continue a phase run exactly where it stood.

A checkpoint is valid only if its manifest landed: files first, each fsynced, then the manifest with their
sizes and hashes, then one rename. Loading sets aside what is not valid and falls back to the one before.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from ulid import ULID

from forge import durable
from forge.engine.tree import Tensors, flatten, references, unflatten
from forge.errors import CheckpointError
from forge.header import HeaderError, header_of, read_header
from forge.retention.steps import (
    DAMAGED,
    MANIFEST,
    TEMPORARY,
    damaged,
    finished_steps,
    step_folder,
    step_of,
    steps_in,
)

FORMAT = 1
WEIGHTS, REST, TREE = "model.safetensors", "optimizer.safetensors", "state.json"
FILES = (WEIGHTS, REST, TREE)
LEAST_KEPT = 2
_WEIGHTS_AT = "state/model/"
_MAX_MANIFEST = 1 << 24
# What reading a document of another shape than expected raises.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
# The process or its user is at fault here, not the file: skipping would give up good checkpoints.
_NOT_ITS_FAULT = frozenset({errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class DamagedError(CheckpointError):
    """This checkpoint is not whole; the one before may be."""


@dataclass(frozen=True)
class Meta:
    """What a checkpoint says beside the state of the phase."""

    last_steps: Mapping[str, int]
    """Last step of each metric series at that moment."""
    runtime: Mapping[str, Any]
    """What has to be the same for a resumed run to be exact, the thread count among it."""
    seconds: float
    """How long the phase had been worked on, pauses left out."""
    scheduled: bool = False
    """Written when it was due, and not because somebody asked: what a divergence goes back to."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back."""

    path: Path
    step: int
    state: dict[str, Any]
    """`state`: what the phase gave; `generators`: those of the engine."""
    meta: Meta


@dataclass(frozen=True)
class Saved:
    """A checkpoint just written."""

    path: Path
    step: int
    bytes: int


def save(
    folder: Path,
    step: int,
    state: dict[str, Any],
    meta: Meta,
    require_room: Callable[[int], None] = lambda size: None,
) -> Saved:
    """Write a checkpoint; when this returns it survives a power cut.

    Args:
        folder: the phase's folder of checkpoints.
        step: steps done.
        state: nested dicts, lists and tensors; `state/model` gets a file of its own.
        meta: what is written beside it.
        require_room: is given the bytes of the tensors before anything is written, and may raise.

    Raises:
        OSError: the disk is full or failed; what was there before is untouched.
        CheckpointError: something in the state cannot be kept.
    """
    tree, tensors = flatten(state)
    require_room(sum(tensor.nbytes for tensor in tensors.values()))
    durable.make_folder(folder)
    temporary = folder / f"step-{step:08d}{TEMPORARY}{ULID()}"
    try:
        durable.make_scratch(temporary)
        files: dict[str, dict[str, Any]] = {}
        for name in FILES:
            data = _contents(name, step, tree, tensors)
            durable.write_file(temporary / name, data)
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        durable.write_file(temporary / MANIFEST, _manifest(step, files, meta))
        durable.sync_folder(temporary)
        if step_folder(folder, step).exists():
            # One whose writing failed after its rename; never one that a run still counts on.
            set_aside(folder, step)
        durable.move(temporary, step_folder(folder, step))
    except BaseException:
        # What cannot be removed now is removed by whoever resumes; why the writing failed matters more.
        with contextlib.suppress(OSError):
            durable.discard_tree(temporary)
        raise
    return Saved(step_folder(folder, step), step, sum(entry["bytes"] for entry in files.values()))


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        DamagedError: anything about it is missing, cut short or altered.
        CheckpointError: it cannot be read now, which says nothing about it.
    """
    import safetensors
    import safetensors.torch

    _require_own(path)
    manifest = _read_manifest(path)
    contents = _read_files(path, manifest)
    try:
        document = json.loads(contents[TREE])
        _check_step(path, manifest, document)
        tensors = dict(safetensors.torch.load(contents[REST]))
        weights = safetensors.torch.load(contents[WEIGHTS])
        tensors.update({_WEIGHTS_AT + name: tensor for name, tensor in weights.items()})
        state = unflatten(document["tree"], tensors)
        return Checkpoint(path, int(document["step"]), state, _meta(manifest))
    except (*_MALFORMED, CheckpointError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{path}: {error}") from error


def verify(path: Path) -> Meta:
    """Check all of a checkpoint that can be checked without torch, in little memory; what it says beside.

    Raises:
        DamagedError: anything about it is missing, cut short or altered.
        CheckpointError: it cannot be read now, which says nothing about it.
    """
    _require_own(path)
    manifest = _read_manifest(path)
    try:
        for name in FILES:
            _verify_file(path / name, manifest["files"][name])
        document = json.loads(_read(path / TREE, most=int(manifest["files"][TREE]["bytes"])))
        _check_step(path, manifest, document)
        there = set(read_header(path / REST)) | {_WEIGHTS_AT + name for name in read_header(path / WEIGHTS)}
        if lacking := sorted(set(references(document["tree"])) - there):
            raise ValueError(f"the tensor {lacking[0]} is missing")
        return _meta(manifest)
    except (*_MALFORMED, HeaderError) as error:
        raise DamagedError(f"{path}: {error}") from error


def load_latest(folder: Path, on_damaged: Callable[[int, str], None]) -> Checkpoint | None:
    """The newest valid checkpoint, or none; for the holder of the lease only.

    A damaged one is set aside, so that it is never taken for a checkpoint again; `on_damaged(step, reason)`
    hears of it.

    Raises:
        CheckpointError: one cannot be read now; nothing was skipped on suspicion.
    """
    for step in steps_in(folder):
        try:
            return load(step_folder(folder, step))
        except DamagedError as error:
            set_aside(folder, step)
            on_damaged(step, str(error))
    return None


def newest_runtime(folder: Path) -> Mapping[str, Any] | None:
    """`Meta.runtime` of the newest checkpoint whose manifest is whole, without reading its state."""
    return next((meta.runtime for _, meta in _metas(folder)), None)


def newest_scheduled(folder: Path) -> int | None:
    """Step of the newest scheduled checkpoint, found as `newest_runtime` is."""
    return next((step for step, meta in _metas(folder) if meta.scheduled), None)


def set_aside(folder: Path, step: int) -> None:
    """Rename a damaged checkpoint out of the way; it stays to be looked at until there are newer ones."""
    durable.move(step_folder(folder, step), folder / f"{DAMAGED}{ULID()}-step-{step:08d}")


def rotate(folder: Path, keep: int, also: Collection[int] = ()) -> list[int]:
    """Delete all checkpoints but the newest `keep` (at least two) and those of `also`; the steps deleted.

    Of a completed phase the newest is the final one. What was set aside as damaged is reduced to the newest.
    """
    kept = {*also, *finished_steps(folder)[: max(LEAST_KEPT, keep)]}
    gone = [step for step in steps_in(folder) if step not in kept]
    for step in gone:
        remove(folder, step)
    for entry in damaged(folder)[:-1]:
        durable.discard_tree(entry)
    return gone


def remove(folder: Path, step: int) -> None:
    """Delete a checkpoint; what a crash leaves of it looks valid to nobody."""
    path = step_folder(folder, step)
    durable.retire_tree(path, f"{path.name}{TEMPORARY}{ULID()}")


def _metas(folder: Path) -> Iterator[tuple[int, Meta]]:
    """What the manifests say that are whole, the newest first."""
    for step in steps_in(folder):
        with contextlib.suppress(DamagedError, *_MALFORMED):
            yield step, _meta(_read_manifest(step_folder(folder, step)))


def _contents(name: str, step: int, tree: Any, tensors: Tensors) -> bytes:
    """One file of a checkpoint; made one after the other, so that memory holds only one of them."""
    import safetensors.torch

    if name == TREE:
        return json.dumps({"format": FORMAT, "step": step, "tree": tree}, allow_nan=False).encode()
    weights = {n.removeprefix(_WEIGHTS_AT): t for n, t in tensors.items() if n.startswith(_WEIGHTS_AT)}
    rest = {n: t for n, t in tensors.items() if not n.startswith(_WEIGHTS_AT)}
    wanted = weights if name == WEIGHTS else rest
    return safetensors.torch.save(wanted)


def _manifest(step: int, files: Mapping[str, Any], meta: Meta) -> bytes:
    body = {
        "format": FORMAT,
        "step": step,
        "files": files,
        "last_steps": dict(meta.last_steps),
        "runtime": dict(meta.runtime),
        "seconds": meta.seconds,
        "scheduled": meta.scheduled,
    }
    return json.dumps({**body, "checksum": _checksum(body)}, indent=1, allow_nan=False).encode()


def _checksum(body: Mapping[str, Any]) -> str:
    # Over the values, not the bytes: the manifest is the one file that nothing else has the hash of.
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _require_own(path: Path) -> None:
    if path.is_symlink():
        raise DamagedError(f"{path} is a symbolic link, which Forge never makes")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read(path / MANIFEST, most=_MAX_MANIFEST))
        body = {key: value for key, value in manifest.items() if key != "checksum"}
        if manifest["checksum"] != _checksum(body):
            raise DamagedError(f"{path / MANIFEST} does not have the checksum that it says")
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {manifest['format']}, this Forge reads {FORMAT}; resume with the Forge "
                "that wrote it."
            )
    except _MALFORMED as error:
        raise DamagedError(f"{path / MANIFEST} is not a manifest ({error})") from error
    return dict(manifest)


def _meta(manifest: Mapping[str, Any]) -> Meta:
    last_steps = {str(name): int(step) for name, step in manifest["last_steps"].items()}
    return Meta(
        last_steps, dict(manifest["runtime"]), float(manifest["seconds"]), bool(manifest["scheduled"])
    )


def _read_files(path: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that a checkpoint has, whatever names its manifest gives."""
    try:
        return {name: _read_verified(path / name, manifest["files"][name]) for name in FILES}
    except _MALFORMED as error:
        raise DamagedError(f"{path / MANIFEST} does not say what it should: {error}") from error


def _check_step(path: Path, manifest: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    if not manifest["step"] == document["step"] == step_of(path):
        raise ValueError(f"it holds step {manifest['step']} and the state of step {document['step']}")


def _verify_file(path: Path, entry: Mapping[str, Any]) -> None:
    with _open(path, most=int(entry["bytes"])) as file:
        found, digest = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    _compare(path, entry, found, digest)


def _compare(path: Path, entry: Mapping[str, Any], found: int, digest: str) -> None:
    if found != entry["bytes"]:
        raise DamagedError(f"{path} has {found} bytes, its manifest says {entry['bytes']}")
    if digest != entry["sha256"]:
        raise DamagedError(f"{path} does not have the hash that its manifest says")


def _read_verified(path: Path, entry: Mapping[str, Any]) -> bytes:
    data = _read(path, most=int(entry["bytes"]))
    _compare(path, entry, len(data), hashlib.sha256(data).hexdigest())
    return data


def _read(path: Path, most: int) -> bytes:
    with _open(path, most) as file:
        return file.read()


@contextlib.contextmanager
def _open(path: Path, most: int) -> Iterator[BufferedReader]:
    """A plain file of at most `most` bytes, never through a link."""
    try:
        # Without O_NONBLOCK a named pipe in its place would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                raise DamagedError(f"{path} is no plain file of at most {most} bytes")
            if path.suffix == ".safetensors":
                # Before memory is taken for what it claims to hold.
                header_of(descriptor)
            yield file
    except HeaderError as error:
        raise DamagedError(f"{path}: {error}") from error
    except OSError as error:
        if error.errno in _NOT_ITS_FAULT:
            raise CheckpointError(
                f"{path} cannot be read: {error.strerror}. Put that right, then resume; nothing was changed."
            ) from error
        raise DamagedError(f"{path}: {error.strerror}") from error
