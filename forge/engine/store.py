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

from ulid import ULID

from forge import durable
from forge.contract import LoadedModel, ProducedModel
from forge.errors import CheckpointError, ForgeError
from forge.home import SessionPaths, is_id
from forge.registry import Connection, ModelRow, Registry, queries
from forge.retention import orphans, restore
from forge.retention.models import CARD, CONFIG, TOKENIZER, UNREADABLE, WEIGHTS, verify
from forge.retention.sweep import ACTOR
from forge.retention.tidy import Known, known

_ALL = 1_000_000


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
        """Delete models that a killed attempt at a phase left half done; returns their names."""
        left = orphans.half_done(self._paths, {row.id: row.name for row in self._rows()}, phase)
        if left:
            self._registry.write(lambda c: self._note(c, left))
        for entry in left:
            orphans.remove(entry)
        durable.settle(self._paths.root)
        return [entry.name for entry in left]

    def put_right(self) -> list[str]:
        """Record models that the registry has lost, and clear away those that are too many; what was done.

        Whole models of a phase that is not completed stay: they may be the only ones until it is.
        """
        says = known(self._registry.fetch, self._session).get(self._session, Known())
        return restore.put_right(self._registry.write, self._paths, says.loose(self._paths), actor=ACTOR)

    def _note(self, c: Connection, left: Sequence[Path]) -> None:
        for path in left:
            restore.note_deletion(c, self._paths, path, "was left half done", actor=ACTOR, now=time.time())

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
