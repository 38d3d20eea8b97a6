"""A model's folder: what makes it whole, and what the registry is to say of it. Never imports torch.

A folder under its final name was complete when it got it, and it is what its card says: whoever relies on
that looks at the hash of the weights first.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge.errors import CheckpointError, ForgeError
from forge.header import read_header
from forge.home import SessionPaths
from forge.reading import read_plain
from forge.registry import ModelRow

CARD, WEIGHTS, CONFIG, TOKENIZER = "card.json", "model.safetensors", "config.json", "tokenizer.json"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, ForgeError)
"""What reading a model raises that is missing, cut short or of another shape."""
_MAX_JSON = 1 << 24


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a model, never through a link.

    Raises:
        Exception: it is missing or no card; `UNREADABLE` lists what.
    """
    return dict(json.loads(read_plain(folder / CARD, _MAX_JSON, follow=False)))


def verify(folder: Path) -> dict[str, Any]:
    """Check all of a model that can be checked without torch, in little memory; its card.

    Raises:
        CheckpointError: it is not what its card says.
        Exception: anything about it is missing or cut short; `UNREADABLE` lists what.
    """
    from forge.config import ModelConfig

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


def row_of(paths: SessionPaths, folder: Path, card: Mapping[str, Any]) -> tuple[ModelRow, dict[str, float]]:
    """What the registry is to say of a model that is whole, and its parents with their weights.

    Raises:
        CheckpointError: its card is that of another model or session.
        Exception: the card does not say what it should; `UNREADABLE` lists what.
    """
    if (card["id"], card["session"]) != (folder.name, paths.root.name):
        raise CheckpointError(f"{folder / CARD} is the card of another model")
    parents = {str(parent): float(weight) for parent, weight in card["parents"].items()}
    made = float(card["created_at"])
    if not all(map(math.isfinite, [made, *parents.values()])):
        raise CheckpointError(f"{folder / CARD} does not say when the model was made, and from what")
    row = ModelRow(
        id=folder.name,
        session_id=paths.root.name,
        phase=card["phase"],
        name=card["name"],
        created_at=made,
        parameters=sum(entry.size for entry in read_header(folder / WEIGHTS).values()),
        bytes=sum(entry.stat().st_size for entry in folder.iterdir()),
        path=str(folder.relative_to(paths.root)),
        metrics=card["metrics"],
    )
    return row, parents
