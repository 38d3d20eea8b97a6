"""The models of a session on disk: `models/<id>/` with weights, configuration, tokenizer and card.

A folder under its final name is complete, and it is what its card says: the hash of the weights is checked
when the next phase reads them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ulid import ULID

from forge import durable
from forge.config import ModelConfig
from forge.contract import LoadedModel, ProducedModel
from forge.errors import CheckpointError, ForgeError
from forge.header import read_header
from forge.home import SessionPaths, is_id
from forge.reading import read_plain
from forge.registry import ModelRow, Registry, queries
from forge.retention import orphans
from forge.retention.orphans import CARD

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, ForgeError)
"""What reading a model raises that is missing, cut short or of another shape."""
_ALL = 1_000_000
_MAX_JSON = 1 << 24


def verify(folder: Path) -> dict[str, Any]:
    """Check all of a model that can be checked without torch, in little memory; its card.

    Raises:
        CheckpointError: it is not what its card says.
        Exception: anything about it is missing or cut short; `UNREADABLE` lists what.
    """
    card = json.loads(read_plain(folder / CARD, _MAX_JSON))
    # Its header is compared with its length before anything else of it is read.
    read_header(folder / WEIGHTS)
    with (folder / WEIGHTS).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != card["sha256"]:
        raise CheckpointError(f"{folder / WEIGHTS} does not have the hash that its card says")
    ModelConfig.model_validate_json(read_plain(folder / CONFIG, _MAX_JSON))
    if not (folder / TOKENIZER).is_file():
        raise CheckpointError(f"{folder / TOKENIZER} is missing")
    return dict(card)


def verified_folder(paths: SessionPaths, model_id: str) -> Path:
    """The folder of a model of a session, after `verify`.

    Raises:
        CheckpointError: it is gone, or not what it was.
    """
    folder = paths.model(model_id)
    try:
        if not is_id(model_id):
            raise CheckpointError("no model has such an id")
        verify(folder)
    except UNREADABLE as error:
        raise CheckpointError(
            f"the model {model_id} cannot be read: {error}. Put {folder} back from a copy, then resume; or "
            "make a new session."
        ) from error
    return folder


class ModelStore:
    """Models of one session; for the holder of its lease."""

    def __init__(self, registry: Registry, session_id: str, paths: SessionPaths) -> None:
        self._registry = registry
        self._session = session_id
        self._paths = paths

    def save_all(
        self, phase: str, produced: Sequence[ProducedModel]
    ) -> list[tuple[ModelRow, Mapping[str, float]]]:
        """Write the models of a result in their order; the row of each, and its parents by id."""
        ids: dict[str, str] = {}
        saved: list[tuple[ModelRow, Mapping[str, float]]] = []
        for model in produced:
            parents = {ids.get(parent, parent): weight for parent, weight in model.parents.items()}
            row = self.save(phase, replace(model, parents=parents))
            ids[model.name] = row.id
            saved.append((row, parents))
        return saved

    def save(self, phase: str, produced: ProducedModel) -> ModelRow:
        """Write a model durably; the row that the registry is to be given."""
        import safetensors.torch

        model_id, now = str(ULID()), time.time()
        folder = self._paths.model(model_id)
        temporary = folder.with_name(f"{model_id}{orphans.TEMPORARY}")
        tensors = {name: t.detach().contiguous().cpu() for name, t in produced.module.state_dict().items()}
        weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
        shape = produced.config.model_dump(mode="json")
        card = {
            **produced.card,
            "id": model_id,
            "name": produced.name,
            "phase": phase,
            "session": self._session,
            "created_at": now,
            "model": shape,
            "metrics": dict(produced.metrics),
            "parents": dict(produced.parents),
            "sha256": hashlib.sha256(weights).hexdigest(),
        }
        files = {
            WEIGHTS: weights,
            CONFIG: json.dumps(shape, indent=1).encode(),
            TOKENIZER: produced.tokenizer.read_bytes(),
            CARD: json.dumps(card, indent=1, default=str).encode(),
        }
        durable.make_folder(folder.parent)
        durable.make_scratch(temporary)
        for name, data in files.items():
            durable.write_file(temporary / name, data)
        durable.sync_folder(temporary)
        durable.move(temporary, folder)
        return ModelRow(
            id=model_id,
            session_id=self._session,
            phase=phase,
            name=produced.name,
            created_at=now,
            parameters=sum(t.numel() for t in tensors.values()),
            bytes=sum(len(data) for data in files.values()),
            path=str(folder.relative_to(self._paths.root)),
            metrics=dict(produced.metrics),
        )

    def load(self, phase: str) -> list[LoadedModel]:
        """The models that a completed phase handed on, oldest first; none that another of them came from.

        Raises:
            ForgeError: one is missing or not what it was; the message says which, and what to do.
        """
        rows = [row for row in reversed(self._rows()) if row.phase == phase]
        if not rows:
            raise ForgeError(
                f"phase {phase} is completed but its models are not in the registry; nothing can go on from "
                "it. Make a new session with the same configuration."
            )
        past = {parent for row in rows for parent, _ in self._registry.fetch(queries.model_parents(row.id))}
        return [self._load(row) for row in rows if row.id not in past]

    def remove_orphans(self, phase: str) -> list[str]:
        """Delete models of a phase that was killed before the registry knew them; returns their names."""
        gone = orphans.found(self._paths, {row.id for row in self._rows()}, {phase})
        for entry in gone:
            orphans.remove(entry)
        durable.settle(self._paths.root)
        return [entry.name for entry in gone]

    def _rows(self) -> list[ModelRow]:
        return self._registry.fetch(queries.models(self._session, _ALL))

    def _load(self, row: ModelRow) -> LoadedModel:
        import torch

        from forge.models.io import load_decoder

        folder = self._paths.root / row.path
        try:
            card = verify(folder)
            module = load_decoder(folder, torch.device("cpu"))
        except UNREADABLE as error:
            raise CheckpointError(
                f'the model "{row.name}" of phase {row.phase} cannot be read: {error}. Put {folder} back '
                "from a copy, then resume; or make a new session."
            ) from error
        return LoadedModel(row.id, module, module.config, folder / TOKENIZER, card)
