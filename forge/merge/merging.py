"""Merge models as a recipe says: read, combine and write one tensor after the other.

Of every parent one tensor is in memory, and the result of the moment, or a part of them; the folder appears
under its name only when everything in it is complete and on disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forge import __version__, durable
from forge.errors import MergeError
from forge.header import ITEM_BYTES
from forge.merge.blocks import Array
from forge.merge.checkpoint import CARD, CONFIG, MAX_JSON, WEIGHTS, Checkpoint, with_layers
from forge.merge.codec import EXACT, TORCH_NAMES, promote
from forge.merge.group import Group
from forge.merge.plan import Place, Plan, Planned, make_plan
from forge.merge.recipe import Recipe
from forge.merge.writer import TensorWriter
from forge.reading import read_plain

_PART = 1 << 20
"""Elements of a tensor at once, where a method works element by element; whole blocks."""
_SPARE = 1 << 24
"""Bytes beside the weights: configuration, tokenizer, card."""

Progress = Callable[[int, int], None]
"""Is given the elements done and those to do."""


@dataclass(frozen=True)
class Merged:
    """What a merge came to."""

    path: Path
    method: str
    models: int
    tensors: int
    parameters: int
    bytes: int
    sha256: str
    seconds: float


def merge(recipe: Recipe, output: Path, progress: Progress = lambda done, of: None) -> Merged:
    """Merge the models of a recipe into a new folder.

    Raises:
        MergeError: the folder exists, or the models cannot be merged; then nothing is left behind.
        ConfigError: the recipe does not fit the models.
        OSError: the disk is full or failed.
    """
    began = time.monotonic()
    if output.is_symlink() or output.exists():
        raise MergeError(f"{output}: exists already; choose another folder, or remove it")
    with ExitStack() as stack:
        parents = [stack.enter_context(Checkpoint(Path(model))) for model in recipe.models]
        plan = make_plan(recipe, parents)
        weights = sum(ITEM_BYTES[t.dtype] * int(np.prod(t.shape, dtype=np.int64)) for t in plan.tensors)
        durable.make_folder(output.absolute().parent)
        _require_room(output.absolute().parent, weights + _SPARE)
        hashes = _Hashes(stack.enter_context(ThreadPoolExecutor(1, "forge-hash")), parents)
        stack.callback(hashes.give_up)
        temporary = output.absolute().with_name(f".{output.absolute().name}.tmp-{uuid.uuid4().hex}")
        durable.make_scratch(temporary)
        try:
            sha256, size = _write_weights(temporary / WEIGHTS, recipe, plan, parents, progress)
            _write_companions(temporary, plan, parents[0])
            card = _card(recipe, plan, parents, hashes, sha256)
            durable.write_file(temporary / CARD, json.dumps(card, indent=1).encode())
            durable.sync_folder(temporary)
            durable.move(temporary, output.absolute())
        except BaseException:
            durable.discard_tree(temporary)
            raise
    elements = _parameters(plan)
    return Merged(output, recipe.method.name, len(recipe.models), len(plan.tensors), elements, size, sha256,
                  time.monotonic() - began)  # fmt: skip


class TensorReader:
    """Reads the tensors of a group into memory that is used again for the next group."""

    def __init__(self, parents: Sequence[Checkpoint], plan: Plan, part: int | None = None) -> None:
        """`part` is the number of elements that are read at once; none reads whole tensors."""
        self._parents = parents
        self._part = part
        weights = [planned for planned in plan.tensors if not planned.exact]
        size = max((int(np.prod(planned.shape, dtype=np.int64)) for planned in weights), default=0)
        count = max((len(planned.places) for planned in weights), default=0)
        size = size if part is None else min(size, part)
        self._buffers: list[Array] = [np.empty(size, np.float32) for _ in range(count)]

    def groups(self, planned: Planned, seed: int) -> Iterator[Group]:
        """The tensors that a planned one is merged from, or part after part; valid until the next."""
        size = int(np.prod(planned.shape, dtype=np.int64))
        for first in range(0, max(size, 1), self._part or max(size, 1)):
            count = size if self._part is None else min(self._part, size - first)
            read = [self._read(i, place, first, count) for i, place in enumerate(planned.places)]
            tensors = read if count < size else [values.reshape(planned.shape) for values in read]
            models = len(planned.inputs)
            yield Group(planned.name, tensors[:models], tensors[models] if planned.base else None, seed)

    def _read(self, slot: int, place: Place, first: int, count: int) -> Array:
        parent, name = place
        out = self._buffers[slot][:count]
        self._parents[parent].file_of(name).read_into(name, out, first)
        return out


def _write_weights(
    path: Path, recipe: Recipe, plan: Plan, parents: Sequence[Checkpoint], progress: Progress
) -> tuple[str, int]:
    of, done = _parameters(plan), 0
    reader = TensorReader(parents, plan, _PART if recipe.method.elementwise else None)

    def merged(planned: Planned) -> Iterator[Array]:
        nonlocal done
        for group in reader.groups(planned, recipe.seed):
            with np.errstate(over="ignore", invalid="ignore"):
                values = recipe.method.merge(group, **planned.values)
            yield values
            done += values.size
            progress(done, of)

    with TensorWriter(path, [(t.name, t.dtype, t.shape) for t in plan.tensors]) as writer:
        for planned in plan.tensors:
            if planned.exact:
                _copy(planned, parents, writer)
                progress(done, of)
            else:
                writer.write(planned.name, merged(planned))
        return writer.finish(), writer.bytes


def _copy(planned: Planned, parents: Sequence[Checkpoint], writer: TensorWriter) -> None:
    (parent, name), *others = planned.places
    file = parents[parent].file_of(name)
    for other, theirs in others:
        if not file.same_bytes(name, parents[other].file_of(theirs), theirs):
            raise MergeError(
                f"{planned.name} is a buffer of {planned.dtype}, which is copied and not merged, but it "
                f"is not the same in {parents[parent].path} and {parents[other].path}"
            )
    writer.begin(planned.name)
    for piece in file.pieces(name):
        writer.write_bytes(piece)


def _write_companions(folder: Path, plan: Plan, first: Checkpoint) -> None:
    """The configuration, made to fit, and copies of the tokenizer's files, all from one parent."""
    if first.config is not None:
        config = dict(first.config) if plan.layers is None else with_layers(first.config, plan.layers)
        dtypes = {planned.dtype for planned in plan.tensors} - EXACT
        for key in ("dtype", "torch_dtype"):
            if key in config and dtypes:
                config[key] = TORCH_NAMES[promote(dtypes)]
        durable.write_file(folder / CONFIG, json.dumps(config, indent=2).encode())
    for path in first.companions():
        durable.write_file(folder / path.name, _companion(path))


def _companion(path: Path) -> bytes:
    try:
        return read_plain(path, MAX_JSON)
    except OSError as error:
        raise MergeError(f"{path}: {error.strerror}") from error


class _Hashes:
    """SHA-256 of every file of the parents, computed beside the merge, which leaves a core idle at times."""

    def __init__(self, executor: ThreadPoolExecutor, parents: Sequence[Checkpoint]) -> None:
        self._stopped = False
        self._futures: list[dict[str, Future[str]]] = [
            {file.path.name: executor.submit(self._digest, file.path) for file in parent.files}
            for parent in parents
        ]

    def of(self, parent: int) -> dict[str, str]:
        """The hashes of one parent's files."""
        return {name: future.result() for name, future in self._futures[parent].items()}

    def give_up(self) -> None:
        """Let a merge that failed end soon."""
        self._stopped = True

    def _digest(self, path: Path) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
        with path.open("rb", buffering=0) as file:
            while not self._stopped and (count := file.readinto(buffer)):
                digest.update(buffer[:count])
        return digest.hexdigest()


def _card(
    recipe: Recipe, plan: Plan, parents: Sequence[Checkpoint], hashes: _Hashes, sha256: str
) -> dict[str, Any]:
    card: dict[str, Any] = {
        "forge": __version__,
        "created_at": time.time(),
        "recipe": recipe.document,
        "method": {"name": recipe.method.name, "paper": recipe.method.paper},
        "seed": recipe.seed,
        "parameters": _parameters(plan),
        "parents": [
            {
                "model": model,
                "path": str(parent.path.absolute()),
                "base": model == recipe.base,
                "sha256": hashes.of(i),
            }
            for i, (model, parent) in enumerate(zip(recipe.models, parents, strict=True))
        ],
        "sha256": sha256,
    }
    if "quantisation" in parents[0].card:
        # The weights are still those behind a ternary view, and are to be run as such.
        card["quantisation"] = parents[0].card["quantisation"]
    for parent in parents:
        for file in parent.files:
            if file.changed():
                raise MergeError(
                    f"{file.path}: was written to while it was merged; merge again when it rests"
                )
    return card


def _parameters(plan: Plan) -> int:
    return sum(int(np.prod(t.shape, dtype=np.int64)) for t in plan.tensors if not t.exact)


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MergeError(
            f"{folder}: {needed} bytes are needed, {free} are free; make room or choose another folder"
        )
